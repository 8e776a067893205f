-- args: kind at limit
-- Refused entries last written at a.at or later, the earliest first: {{number, entry}, ...}.
local out = {}
for _, no in ipairs(redis.call('ZRANGEBYSCORE', refusals_key, text(tonumber(a.at) or 0), '+inf', 'LIMIT', 0, a.limit)) do
  local e = redis.call('HGETALL', entry_key(a.kind, no))
  if #e > 0 then out[#out + 1] = {no, e} else redis.call('ZREM', refusals_key, no) end
end
return out
