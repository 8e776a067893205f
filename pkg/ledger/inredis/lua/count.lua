-- Adds ARGV[2] to the count under KEYS[1], never below zero, and returns the sum. ARGV[1] is new for each call: a
-- repeat with the same value, after a lost answer, changes nothing.
local was = redis.call('HMGET', KEYS[1], 'n', 'by')
local n = tonumber(was[1]) or 0
if was[2] == ARGV[1] then return n end
n = math.max(n + tonumber(ARGV[2]), 0)
redis.call('HSET', KEYS[1], 'n', n, 'by', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return n
