-- args: kind at limit until room before
-- Takes entries that are due at a.at, or with a.room (a JSON object of numbers by warehouse) the next ones. Returns {{number, when
-- it was due, the values of followedFields}, ...}. The score of what is taken is no whole number, and every other is.
local room = a.room ~= '' and cjson.decode(a.room)
local list
if room then
  list = redis.call('ZRANGEBYSCORE', due_key, '(' .. a.at, a.before ~= '' and '(' .. a.before or '+inf', 'WITHSCORES', 'LIMIT', 0, a.limit)
else
  list = redis.call('ZRANGEBYSCORE', due_key, '-inf', a.at, 'WITHSCORES', 'LIMIT', 0, a.limit)
end
local out, moved = {}, {}
for i = 1, #list, 2 do
  local no, due = list[i], list[i + 1]
  if not room or not string.find(due, '.', 1, true) then
    local e = redis.call('HMGET', entry_key(a.kind, no), 'version', 'state', 'order', 'number', 'revision', 'shop', 'warehouse', 'identity',
      'following', 'due', 'cancel', 'begun', 'trace', 'changed')
    local warehouse = e[7] or ''
    local left = room and (room[warehouse] or 0) or 1
    if not e[1] then
      redis.call('ZREM', due_key, no)
    elseif left > 0 then
      if room then room[warehouse] = left - 1 end
      out[#out + 1] = {no, due, e}
      moved[#moved + 1] = a['until']
      moved[#moved + 1] = no
    end
  end
end
if #moved > 0 then redis.call('ZADD', due_key, unpack(moved)) end
return out
