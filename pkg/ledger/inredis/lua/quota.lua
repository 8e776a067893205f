-- Before the operations on a quota, after together.lua: KEYS[1] is the pacing, calls_key the calls under way. Both are read
-- once for all calls that came together, and the pacing is written once.
local calls_key = KEYS[1] .. ':calls'
local SLACK, TRAVEL, NEAR, CROWD, WAIT_MOST, ACTIVE = 5000, 15000, 200000, 0.97, 300000000, 10000000
local RANKS = {floor = 0, cancel = 1, push = 2, status = 3, stock = 4}
local FLOORS = {status = 0.15, stock = 0.10}

local p, changed, ttl
local function v(field) return p[field] or 0 end

prepare = function()
  if p then return end
  p = {}
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do p[flat[i]] = tonumber(flat[i + 1]) end
end

-- under_way counts the calls that have not ended by themselves.
local calls, swept
local function under_way()
  if swept ~= now then
    redis.call('ZREMRANGEBYSCORE', calls_key, '-inf', now)
    calls, swept = redis.call('ZCARD', calls_key), now
  end
  return calls
end

finish = function()
  if not changed then return end
  local set = {}
  for field, value in pairs(p) do
    set[#set + 1] = field
    set[#set + 1] = text(value)
  end
  redis.call('HSET', KEYS[1], unpack(set))
  redis.call('EXPIRE', KEYS[1], 3600)
  if ttl then redis.call('PEXPIRE', calls_key, math.ceil(ttl / 1000) + 3600000) end
end
