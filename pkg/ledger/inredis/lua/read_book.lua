-- ARGV[3] is the number of fields to read; their names follow, then those of the marks. Returns {version or '0',
-- epoch, the fields' values, the indexes of the marks that exist}.
local n = tonumber(ARGV[3])
local version, dropped = unpack(redis.call('HMGET', meta, 'version', 'dropped'))
local values, standing = {}, {}
if n > 0 then values = redis.call('HMGET', fields, unpack(ARGV, 4, 3 + n)) end
if #ARGV > 3 + n then
  for i, at in ipairs(redis.call('ZMSCORE', marks, unpack(ARGV, 4 + n))) do
    if at and tonumber(at) > cut then standing[#standing + 1] = i end
  end
end
return {not dropped and version or '0', epoch(), values, standing}
