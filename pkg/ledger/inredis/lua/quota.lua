-- Helpers of the operations on a quota: KEYS[1] is the pacing, calls_key the calls under way. Both are read once for
-- all calls of a batch, and written once. The first argument of each call is a permit's id, or
-- several in one text.
local calls_key = KEYS[1] .. ':calls'
local p, changed, ttl
local function v(field) return p[field] or 0 end

local function load()
  if p then return end
  p = {}
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do p[flat[i]] = tonumber(flat[i + 1]) end
end

-- ends holds, for the ids in this batch, when those under way expire; begun and ended are not written yet.
local ends, begun, ended
local function ends_at(id)
  if not ends then
    ends = {}
    local ids, i = {}, 1
    while ARGV[i] do
      ids[#ids + 1] = ARGV[i + 3]
      i = i + 1 + ARGV[i]
    end
    local scores = redis.call('ZMSCORE', calls_key, unpack(ids))
    for j, each in ipairs(ids) do ends[each] = tonumber(scores[j] or nil) end
  end
  return ends[id]
end

local function write_calls()
  if begun then redis.call('ZADD', calls_key, unpack(begun)) end
  if ended then redis.call('ZREM', calls_key, unpack(ended)) end
  begun, ended = nil, nil
end

-- under_way counts the calls that have not expired.
local calls, swept
local function under_way()
  if swept ~= now then
    write_calls()
    redis.call('ZREMRANGEBYSCORE', calls_key, '-inf', now)
    for id, till in pairs(ends or {}) do
      if till <= now then ends[id] = nil end
    end
    calls, swept = redis.call('ZCARD', calls_key), now
  end
  return calls
end

local function begin_call(id, till)
  begun = begun or {}
  begun[#begun + 1], begun[#begun + 2] = text(till), id
  ends[id], calls = till, calls + 1
end

-- end_calls ends those of the ids, separated by blanks, that are under way; false when there were none.
local function end_calls(ids)
  if not string.find(ids, ' ', 1, true) then
    if not ends_at(ids) then return false end
    ended = ended or {}
    ended[#ended + 1] = ids
    ends[ids] = nil
    if calls then calls = calls - 1 end
    return true
  end
  write_calls()
  local list = {}
  for id in string.gmatch(ids, '%S+') do
    list[#list + 1] = id
    if ends then ends[id] = nil end
  end
  local gone = redis.call('ZREM', calls_key, unpack(list))
  if calls then calls = calls - gone end
  return gone > 0
end

-- nobody_waits: no caller, of whichever rank, has reserved a slot or is to return for one.
local function nobody_waits(keep_for)
  for r = 0, LAST_RANK do
    if v('near:' .. r) + keep_for > now or v('far:' .. r) > now then return false end
  end
  return true
end

local function forget_calls()
  redis.call('DEL', KEYS[1], calls_key)
  swept, ends, begun, ended = nil, nil, nil, nil
end

finish = function()
  write_calls()
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

-- easy is the class and limit of a call that was just granted, with the interval between its slots: the next call of
-- the same kind is granted too if there is a slot, because nothing else changed.
local easy
