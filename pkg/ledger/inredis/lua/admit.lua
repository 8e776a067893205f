-- Admits ARGV[1] to the list KEYS[1] of at most ARGV[2]: 1 when it is on it.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 1 end
local n = redis.call('ZCARD', KEYS[1])
if n >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], n, ARGV[1])
return 1
