-- Refused in words that do not prove that nothing is there: as doubt, with the refusal. Answers {'ok'}.
local e = load()
if e.state == 'accepted' or e.state == 'refused' or e.state == 'cancelled' or done(e, 'denied') then return {'ok'} end
if e.state == 'intent' and e.owner ~= a.owner then
  e.prior, e.prior_identity = 'unknown', e.identity or '' -- another is at it, and may be sending: its claim stays, and this refusal is not the last word
  e.denied, e.looks = '', ''
else
  e.state, e.owner, e.how = 'unknown', a.owner, 'denied'
  e.told, e.prior, e.prior_identity, e.fresh, e['until'] = '', '', '', '', ''
  if not is(e.identity) then e.identity = a.identity end
  e.denied, e.looks = a.reason, ''
  take_back(e) -- if it had given them back
end
e.doubt, e.sure = text(now), ''
remember(e, 'denied', a.detail)
save(e)
return {'ok'}
