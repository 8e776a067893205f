-- args: kind no owner
-- A look-up found nothing. Returns {'ok', lookups, since, now} or {'lost'}.
local e = load()
if not done(e, 'absent') then
  if not mine(e) then return {'lost'} end
  e.state, e.how = 'unknown', 'absent'
  e.looks = text((tonumber(e.looks) or 0) + 1)
  if not is(e.doubt) then e.doubt = text(now) end
  e.told, e.prior, e.prior_identity, e.sure, e.fresh, e['until'] = '', '', '', '', '', ''
  remember(e, 'absent')
  save(e)
end
return {'ok', e.looks, e.doubt, text(now)}
