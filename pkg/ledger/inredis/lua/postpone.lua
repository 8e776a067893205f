-- args: kind until later due
-- Moves what was taken until a.until. a.later is a JSON list of texts: number, when it is due, ...; a.due is the earliest, for the
-- list of sellers (duesellers.go). Returns {'ok'}.
local later, nos, moved = cjson.decode(a.later), {}, {}
for i = 1, #later, 2 do nos[#nos + 1] = later[i] end
for i, score in ipairs(redis.call('ZMSCORE', due_key, unpack(nos))) do
  if score and tonumber(score) == tonumber(a['until']) then
    moved[#moved + 1] = later[2 * i]
    moved[#moved + 1] = nos[i]
  end
end
if #moved > 0 then redis.call('ZADD', due_key, unpack(moved)) end
return {'ok'}
