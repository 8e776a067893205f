-- args: kind no version state token following due waybills
-- What the poller now knows. Returns {'ok'} or {'moved'}. a.token distinguishes one's own lost answer from another's
-- write.
local e = load()
if e.version ~= a.version then
  if is(e.token) and e.token == a.token then return {'ok'} end
  return {'moved'}
end
if a.state == 'cancelled' and e.state ~= 'cancelled' then
  free_lines(e)
  remember(e, 'cancelled', e.number)
end
if a.state == 'accepted' and e.state ~= 'accepted' then take_back(e) end
e.state, e.following, e.due, e.token, e.waybills = a.state, a.following, a.due, a.token, a.waybills
save(e)
return {'ok'}
