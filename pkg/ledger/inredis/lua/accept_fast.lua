-- The common case of accept: the entry is just as this caller's claim wrote it, and nothing was known before. It writes
-- what accept.lua would, but leaves in the entry what only a claim needs (until, fresh, sure): nothing reads that of an
-- accepted one. Everything else, also a number that is known, it leaves to accept.lua.
local kind, no, order, number, due = ARGV[at], ARGV[at + 1], ARGV[at + 4], ARGV[at + 14], ARGV[at + 17]
local name, index = entry_key(kind, no), index_key(number)
local e = redis.call('HMGET', name, 'version', 'state', 'owner', 'hash', 'order', 'lines', 'revision', 'shop', 'warehouse', 'trace', 'history', 'identity', 'platforms')
local same = e[1] == '1' and e[2] == 'intent' and number ~= '' and due ~= '' and e[10] == ARGV[at + 11] and (e[12] or '') == ARGV[at + 12] and (e[13] or '') == ARGV[at + 13]
for i = 3, 9 do same = same and e[i] == ARGV[at + i - 1] end
if not same or redis.call('EXISTS', index) == 1 then return end
local more = ARGV[at + 15] ~= '' and {'cleaned', ARGV[at + 15]} or {}
redis.call('HSET', name, 'state', 'accepted', 'number', number, 'following', ARGV[at + 16], 'due', due,
  'how', 'accepted', 'history', e[11] .. '\n' .. line(at, 'accepted', number), 'version', '2', 'changed', text(now), unpack(more))
redis.call('ZADD', base .. 'due:' .. kind, due, no)
redis.call('ZADD', index, text(LIVE + now), kind .. ':' .. no)
return {'ok'}
