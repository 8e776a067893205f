-- Helpers of the operations on documents: the current entry, and how it is written. An empty field of an entry is
-- absent.
local empty = {__index = function() return '' end}

local function lines_key(order_no) return base .. 'lines:' .. a.kind .. ':' .. order_no end

local key, due_key, doubt_key, refusals_key
prepare = function()
  setmetatable(a, empty) -- a missing value reads as ''
  key, due_key, doubt_key = entry_key(a.kind, a.no), base .. 'due:' .. a.kind, base .. 'doubt:' .. a.kind
  refusals_key = base .. 'refusals:' .. a.kind
end

-- list decodes a JSON list, empty for ''.
local function list(text) return text ~= '' and cjson.decode(text) or {} end

local function is(value) return value and value ~= '' end

-- external: another program sends it (ledger.StoredHash).
local function external(e) return e.hash == 'shadow' end

-- unsettled entries, and the keys that index them, are kept for good.
local function unsettled(e)
  return is(e.due) or e.state == 'intent' or e.state == 'unknown' and not external(e)
end

-- unclaimed: there is no entry, or only a wish to cancel made it.
local function unclaimed(e) return not is(e.state) and not is(e.tries) end

-- stored is the current entry as it was read; stayed: it was unsettled then.
local stored, stayed
local function load()
  local e, flat = {}, redis.call('HGETALL', key)
  stored = {}
  for i = 1, #flat, 2 do
    e[flat[i]] = flat[i + 1]
    stored[flat[i]] = flat[i + 1]
  end
  stayed = unsettled(e)
  return e
end

local function flat(e)
  local out = {}
  for field, value in pairs(e) do
    if value ~= '' then
      out[#out + 1] = field
      out[#out + 1] = value
    end
  end
  return out
end

-- mine: the caller claimed it last and has not reported the result.
local function mine(e) return e.state == 'intent' and e.owner == a.owner end

-- done: the caller has already ended it this way, and the answer was lost.
local function done(e, how) return e.state ~= 'intent' and e.owner == a.owner and e.how == how end

local function live(no)
  local state = redis.call('HGET', entry_key(a.kind, no), 'state')
  return state == 'intent' or state == 'unknown' or state == 'accepted'
end

-- holders are the numbers that hold lines of an order, false for none.
local function holders(order, lines)
  if #lines == 0 then return {} end
  return redis.call('HMGET', lines_key(order), unpack(lines))
end

-- never_sent_since reports whether a document without an entry is certainly new: a first delivery, younger than the epoch.
local function never_sent_since(born)
  return a.first == '1' and math.min(a.stream_time, a.audited_at) > tonumber(born) + EPOCH_MARGIN
end

local function take_lines(e, lines, held)
  local set = {}
  for i, line in ipairs(lines) do
    if not held[i] or held[i] ~= a.no and not live(held[i]) then
      set[#set + 1] = line
      set[#set + 1] = a.no
    end
  end
  if #set > 0 then redis.call('HSET', lines_key(e.order), unpack(set)) end
end

-- take_back takes the entry's lines again if they were freed.
local function take_back(e)
  if not is(e.lines) then return end
  local lines = cjson.decode(e.lines)
  take_lines(e, lines, holders(e.order, lines))
end

local function free_lines(e)
  if not is(e.lines) then return end
  for _, line in ipairs(cjson.decode(e.lines)) do
    if redis.call('HGET', lines_key(e.order), line) == a.no then redis.call('HDEL', lines_key(e.order), line) end
  end
end

-- remember adds a line to the entry's history. Only text goes through cjson: it rounds numbers.
local function remember(e, what, detail)
  local line = cjson.encode({
    at = text(now), owner = a.owner, stream = a.stream, seq = a.seq, what = what, detail = detail or '',
  })
  local all = is(e.history) and e.history .. '\n' .. line or line
  local _, breaks = string.gsub(all, '\n', '')
  for _ = KEEP_ATTEMPTS, breaks do all = string.gsub(all, '^[^\n]*\n', '', 1) end
  e.history = all
end

-- keep makes a key permanent, or lets it expire some time after all entries that it indexes are settled.
local function keep(name, settled)
  if settled then redis.call('EXPIRE', name, KEEP_SETTLED) else redis.call('PERSIST', name) end
end

local function index(no, settled)
  local name = index_key(no)
  redis.call('ZADD', name, (settled and 0 or LIVE) + now, a.kind .. ':' .. a.no)
  if settled then
    redis.call('ZREMRANGEBYSCORE', name, '-inf', now - KEEP_SETTLED * 1000000)
    settled = redis.call('ZCOUNT', name, LIVE, '+inf') == 0
  end
  keep(name, settled)
  return settled
end

-- also_by indexes the numbers in a list of the entry's.
local function also_by(e, field, settled, stays)
  local has, had = e[field] or '', stored[field] or ''
  if has == had and (has == '' or stays) then return end
  local list, kept = is(has) and cjson.decode(has) or {}, {[e.order or ''] = true, [e.number or ''] = true}
  for _, no in ipairs(list) do
    kept[no] = true
    index(no, settled)
  end
  if has == had or had == '' then return end
  for _, no in ipairs(cjson.decode(had)) do
    if not kept[no] then redis.call('ZREM', index_key(no), a.kind .. ':' .. a.no) end
  end
end

-- sharing lists live documents of other orders that share a platform number: platform number, order, document, ...
local function sharing()
  local out = {}
  if not is(a.platforms) then return out end
  for _, platform in ipairs(cjson.decode(a.platforms)) do
    for _, member in ipairs(redis.call('ZREVRANGE', index_key(platform), 0, 4 * MAX_SHARING)) do
      local kind, no = string.match(member, '^([^:]*):(.*)$')
      if #out >= 3 * MAX_SHARING then return out end
      if kind == a.kind and no ~= a.no and live(no) then
        local other = redis.call('HMGET', entry_key(kind, no), 'order', 'platforms')
        if is(other[1]) and other[1] ~= a.order and is(other[2]) then
          for _, theirs in ipairs(cjson.decode(other[2])) do
            if theirs == platform then
              out[#out + 1], out[#out + 2], out[#out + 3] = platform, other[1], no
              break
            end
          end
        end
      end
    end
  end
  return out
end

-- numbered names the other document of the kind that has the warehouse's number, nil for none. Another account's
-- numbers are separate.
local function numbered(kind, no, number, identity)
  local least -- the smallest, so that each ledger names the same
  for _, member in ipairs(redis.call('ZREVRANGE', index_key(number), 0, 19)) do
    local of, other = string.match(member, '^([^:]*):(.*)$')
    if of == kind and other ~= no then
      local e = redis.call('HMGET', entry_key(of, other), 'number', 'identity')
      if e[1] == number and (not is(e[2]) or not is(identity) or e[2] == identity) and (not least or other < least) then least = other end
    end
  end
  return least
end

local function save(e)
  e.version = text((tonumber(e.version) or 0) + 1)
  e.changed = text(now)
  if not is(e.begun) and not unclaimed(e) then e.begun = e.changed end
  local set, gone = {}, {}
  for field, value in pairs(e) do
    if value == '' then
      if stored[field] then gone[#gone + 1] = field end
    elseif value ~= stored[field] then
      set[#set + 1] = field
      set[#set + 1] = value
    end
  end
  redis.call('HSET', key, unpack(set)) -- the version at least
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end

  local function sort_in(name, score, was)
    if is(score) then
      redis.call('ZADD', name, score, a.no)
    elseif is(was) then
      redis.call('ZREM', name, a.no)
    end
  end
  sort_in(doubt_key, not external(e) and e.doubt, stored.doubt)
  -- Another due time than the entry's may stand there (postpone): only follow, which has a new token each time, sets it back.
  if e.due ~= stored.due or e.token ~= stored.token then sort_in(due_key, e.due, stored.due) end
  local refused = e.state == 'refused' and not external(e)
  sort_in(refusals_key, refused and e.changed, stored.state == 'refused' and stored.changed)
  if refused then
    redis.call('ZREMRANGEBYSCORE', refusals_key, '-inf', text(now - KEEP_REFUSALS * 1000000))
    redis.call('EXPIRE', refusals_key, KEEP_REFUSALS)
  end
  -- A permanent key need not be made permanent again.
  local settled = not unsettled(e)
  if settled or stored.version and not stayed then keep(key, settled) end
  local stays = stayed and not settled
  if is(e.order) and not (stays and stored.order == e.order) then keep(lines_key(e.order), index(e.order, settled)) end
  if is(e.number) and not (stays and stored.number == e.number) then index(e.number, settled) end
  also_by(e, 'platforms', settled, stays)
  also_by(e, 'waybills', settled, stays)
  if not stored.version then note_kind(a.kind) end
end
