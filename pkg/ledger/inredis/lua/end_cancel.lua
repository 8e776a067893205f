-- args: kind no request state
-- The open wish with that id was answered. Returns {'ok'}, also when it is not open, or {'moved'}.
local e = load()
if not is(e.cancel) or cjson.decode(e.cancel).request ~= a.request then return {'ok'} end
if a.state == 'cancelled' and e.state == 'accepted' then
  free_lines(e)
  e.state, e.due = 'cancelled', ''
  remember(e, 'cancelled', e.number)
elseif a.state == 'cancelled' and e.state ~= 'cancelled' then
  return {'moved'}
end
e.cancel = ''
remember(e, 'cancel.ended', a.request)
save(e)
return {'ok'}
