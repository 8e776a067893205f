-- args: kind no request cause
-- Records a wish to cancel unless one is open. Returns {'ok', entry}.
local e = load()
if not is(e.cancel) then
  e.cancel = cjson.encode({request = a.request, cause = a.cause, at = text(now)})
  remember(e, 'cancel.wanted', a.request)
  save(e)
end
return {'ok', flat(e)}
