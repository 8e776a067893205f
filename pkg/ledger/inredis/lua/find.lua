-- args: no limit
-- Entries whose own number, order number or warehouse number is a.no: {{kind, number, entry}, ...}.
local limit = tonumber(a.limit)
local found, seen = {}, {}
local function add(kind, no)
  local member = kind .. ':' .. no
  if seen[member] or #found >= limit then return end
  seen[member] = true
  local e = redis.call('HGETALL', entry_key(kind, no))
  if #e > 0 then found[#found + 1] = {kind, no, e} end
end
for _, kind in ipairs(redis.call('SMEMBERS', base .. 'kinds')) do add(kind, a.no) end
for _, member in ipairs(redis.call('ZREVRANGE', index_key(a.no), 0, 4 * limit)) do
  local kind, no = string.match(member, '^([^:]*):(.*)$')
  add(kind, no)
end
return found
