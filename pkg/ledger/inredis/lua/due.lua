-- args: kind at limit
-- Entries that are due at a.at, the longest overdue first: {{number, when it is due, entry}, ...}.
local out = {}
local list = redis.call('ZRANGEBYSCORE', due_key, '-inf', a.at, 'WITHSCORES', 'LIMIT', 0, a.limit)
for i = 1, #list, 2 do
  local e = redis.call('HGETALL', entry_key(a.kind, list[i]))
  if #e > 0 then out[#out + 1] = {list[i], list[i + 1], e} else redis.call('ZREM', due_key, list[i]) end
end
return out
