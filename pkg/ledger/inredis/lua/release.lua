-- args: kind no owner detail
-- Nothing was sent in this attempt: the entry returns to what it was, except its history. Returns {'ok'} or {'lost'}.
local e = load()
if done(e, 'released') then return {'ok'} end
if not mine(e) then return {'lost'} end
if e.prior ~= 'unknown' then
  free_lines(e)
  e.denied, e.looks, e.doubt = '', '', ''
  if not is(e.prior) then e.hash = '' end -- never sent, so any content may be claimed under this number
end
e.state, e.identity, e.how = e.prior or '', e.prior_identity or '', 'released'
e.told, e.prior, e.prior_identity, e.fresh, e['until'] = '', '', '', '', ''
remember(e, 'released', a.detail)
save(e)
return {'ok'}
