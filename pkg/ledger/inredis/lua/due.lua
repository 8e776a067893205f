-- args: kind at limit
-- Entries that are due at a.at, the longest overdue first: {{number, entry}, ...}.
local out = {}
for _, no in ipairs(redis.call('ZRANGEBYSCORE', due_key, '-inf', a.at, 'LIMIT', 0, a.limit)) do
  local e = redis.call('HGETALL', entry_key(a.kind, no))
  if #e > 0 then out[#out + 1] = {no, e} else redis.call('ZREM', due_key, no) end
end
return out
