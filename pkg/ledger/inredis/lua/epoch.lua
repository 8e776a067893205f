-- The epoch: since when this very server remembers. KEYS[1] is the prefix of all keys of a seller or a book; its hash
-- tag keeps them in one slot.
local base = KEYS[1]

-- identity names this server and the history of data that it continues: a restart, a restored copy, a failover each
-- change one of the two.
local identity
local function identify()
  if not identity then
    local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
    identity = server .. ' ' .. history
  end
  return identity
end

-- epoch is since when this very server remembers the seller, or the book, as text.
local since
local function epoch()
  if not since then
    local stored = redis.call('HMGET', base .. 'birth', 'identity', 'since')
    since = stored[2]
    if stored[1] ~= identify() or not since then
      since = text(now)
      redis.call('HSET', base .. 'birth', 'identity', identify(), 'since', since)
    end
  end
  return since
end

