-- Ends a call that began at a.from. One that ended already is no error.
if redis.call('ZREM', calls_key, a.id) == 1 then
  if calls then calls = calls - 1 end
  local took = math.max(now - a.from, 0)
  p.length = v('length') > 0 and p.length + (math.modf((took - p.length) / 8)) or took
  changed = true
end
return {'ok'}
