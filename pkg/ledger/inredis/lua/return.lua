-- Ends a call that began at a.from. One that ended already is no error.
if redis.call('ZREM', calls_key, a.id) == 1 then
  local took = math.max(now - a.from, 0)
  local length = tonumber(redis.call('HGET', KEYS[1], 'length'))
  length = (length or 0) > 0 and length + (math.modf((took - length) / 8)) or took
  redis.call('HSET', KEYS[1], 'length', text(length))
  redis.call('EXPIRE', KEYS[1], 3600)
end
return {'ok'}
