-- KEYS[1]: the list of sellers by when to look at them. ARGV: now, limit, when to look at them again (milliseconds).
-- Returns the sellers that are due, and puts them off.
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local add = {}
for _, name in ipairs(names) do
  add[#add + 1] = ARGV[3]
  add[#add + 1] = name
end
if #add > 0 then redis.call('ZADD', KEYS[1], unpack(add)) end
return names
