-- ARGV[3] and on: the version as it was read, the owner, how many owners to remember, the number of fields to set, to
-- remove, and of marks; then name and value of each field to set, the names to remove, score and name of each mark.
-- Returns {'written', version} or {'moved'}.
local read, owner, keep = ARGV[3], ARGV[4], tonumber(ARGV[5])
local set, gone, marked = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local last, dropped, known = unpack(redis.call('HMGET', meta, 'version', 'dropped', 'owners'))
local owners = known and cjson.decode(known) or {}
for _, by in ipairs(owners) do
  if by[1] == owner then return {'written', by[2]} end
end
if (not dropped and last or '0') ~= read then return {'moved'} end

local version = text(math.max((tonumber(last) or 0) + 1, now))
owners[#owners + 1] = {owner, version}
if #owners > keep then table.remove(owners, 1) end
redis.call('HSET', meta, 'version', version, 'owners', cjson.encode(owners))
if dropped then
  redis.call('HDEL', meta, 'dropped')
  redis.call('PERSIST', meta)
end
local at = 9
if set > 0 then redis.call('HSET', fields, unpack(ARGV, at, at + 2 * set - 1)) end
at = at + 2 * set
if gone > 0 then redis.call('HDEL', fields, unpack(ARGV, at, at + gone - 1)) end
at = at + gone
if marked > 0 then redis.call('ZADD', marks, unpack(ARGV, at, at + 2 * marked - 1)) end
-- Some at a time: other callers wait meanwhile.
local over = math.min(redis.call('ZCOUNT', marks, '-inf', cut), 2000)
if over > 0 then redis.call('ZREMRANGEBYRANK', marks, 0, over - 1) end
return {'written', version}
