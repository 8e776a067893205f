-- args: kind no owner detail identity
-- It was sent and no usable answer came. Earlier look-ups prove nothing about this send. Returns {'ok'}.
local e = load()
if e.state == 'accepted' or e.state == 'refused' or e.state == 'cancelled' or done(e, 'unknown') then return {'ok'} end
if e.state == 'intent' and e.owner ~= a.owner then
  e.prior, e.prior_identity = 'unknown', e.identity or '' -- another owner has it: its claim stays
else
  e.state, e.owner, e.how = 'unknown', a.owner, 'unknown'
  e.told, e.prior, e.prior_identity, e.fresh, e['until'] = '', '', '', '', ''
  if not is(e.identity) then e.identity = a.identity end
  take_back(e) -- if they were freed
end
e.denied, e.looks, e.doubt, e.sure = '', '', text(now), ''
remember(e, 'unknown', a.detail)
save(e)
return {'ok'}
