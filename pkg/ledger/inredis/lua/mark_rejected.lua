-- args: kind no owner reason detail identity
-- The warehouse refused in words that do not prove that it has nothing: as doubt.lua, with the refusal. Returns
-- {'ok'}.
local e = load()
if e.state == 'accepted' or e.state == 'refused' or e.state == 'cancelled' or done(e, 'denied') then return {'ok'} end
if e.state == 'intent' and e.owner ~= a.owner then
  e.prior, e.prior_identity = 'unknown', e.identity or '' -- another owner has it and may be sending: its claim stays, and this refusal is not final
  e.denied, e.looks = '', ''
else
  e.state, e.owner, e.how = 'unknown', a.owner, 'denied'
  e.told, e.prior, e.prior_identity, e.fresh, e['until'] = '', '', '', '', ''
  if not is(e.identity) then e.identity = a.identity end
  e.denied, e.looks = a.reason, ''
  take_back(e) -- if they were freed
end
e.doubt, e.sure = text(now), ''
remember(e, 'denied', a.detail)
save(e)
return {'ok'}
