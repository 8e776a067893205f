-- After together.lua or book.lua: since when this very server remembers. KEYS[1] is where all keys of a seller or a book
-- begin; its hash tag keeps them in one slot.
local base = KEYS[1]

-- identity tells which server this is and which history of data it goes on with: a restart, a restored copy, a failover
-- each change one of the two.
local identity
local function identify()
  if not identity then
    local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
    identity = server .. ' ' .. history
  end
  return identity
end

-- born tells since when this very server remembers the seller, or the book, as text.
local since
local function born()
  if not since then
    local birth = redis.call('HMGET', base .. 'birth', 'identity', 'since')
    since = birth[2]
    if birth[1] ~= identify() or not since then
      since = text(now)
      redis.call('HSET', base .. 'birth', 'identity', identify(), 'since', since)
    end
  end
  return since
end

