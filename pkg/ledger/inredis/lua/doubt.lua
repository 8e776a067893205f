-- It was sent and no answer came. Looks that found nothing before now prove nothing of this sending. Answers {'ok'}.
local e = load()
if e.state == 'accepted' or e.state == 'refused' or e.state == 'cancelled' or done(e, 'unknown') then return {'ok'} end
if e.state == 'intent' and e.owner ~= a.owner then
  e.prior, e.prior_identity = 'unknown', e.identity or '' -- another is at it: its claim stays
else
  e.state, e.owner, e.how = 'unknown', a.owner, 'unknown'
  e.told, e.prior, e.prior_identity, e.fresh, e['until'] = '', '', '', '', ''
  if not is(e.identity) then e.identity = a.identity end
  take_back(e) -- if it had given them back
end
e.denied, e.looks, e.doubt, e.sure = '', '', text(now), ''
remember(e, 'unknown', a.detail)
save(e)
return {'ok'}
