-- args: id class per_second concurrent ttl
-- Starts a call or says how long to wait: {'begun', when} or {'wait', how long}. inkv/pace.go does the same with the
-- same constants and explains it.

load()
local id, class, lasts = a.id, a.class, tonumber(a.ttl)
if easy and swept == now and class == easy.class and a.per_second == easy.per_second and a.concurrent == easy.concurrent
    and v('next') <= now and calls < easy.most and not ends_at(id) then
  p.next = math.max(v('next'), now - SLACK) + easy.interval
  begin_call(id, now + lasts)
  ttl = math.max(ttl, lasts)
  return {'begun', text(now)}
end
easy = nil
local per_second, concurrent = tonumber(a.per_second), tonumber(a.concurrent)
if v('at') > now + 1000000 then
  p = {next = now} -- another server, whose clock is behind: the reservations of the first one never come
  forget_calls()
end
now = math.max(now, v('at'))
p.at = now

local calls_now = under_way()
if ends_at(id) then return {'begun', text(now)} end -- a repeated call: the answer was lost

local me, credit = RANKS[class], false
local floor_step = FLOORS[class] and math.floor(1e6 / per_second / FLOORS[class])
if floor_step then
  if now - v('asked:' .. class) > ACTIVE then p['due:' .. class] = now end
  p['due:' .. class] = math.max(v('due:' .. class), now - ACTIVE)
  p['asked:' .. class] = now
  if p['due:' .. class] <= now then me = RANKS.floor end
end
for other in pairs(FLOORS) do
  if p['due:' .. other] and p['due:' .. other] <= now and now - v('asked:' .. other) <= ACTIVE then credit = true end
end

local interval = math.ceil(1e6 / per_second * (1 + (SLACK + TRAVEL) / 1e6))
local turn = math.max(interval, math.floor(v('length') / concurrent))
if now - v('next') > math.max(1000000, 4 * turn) then
  for r = 0, 4 do p['far:' .. r] = 0 end
end
p.next = math.min(v('next'), now + interval) -- the limit may have been raised meanwhile
local free = p.next
if calls_now >= concurrent then
  free = math.max(free, now + math.max(math.floor(turn / 2), 1000))
else
  turn = interval
end

local grace = math.min(math.max(interval, 20000), 1000000)
local slot, first, crowded = free, true, false
for r = 0, me do
  if r ~= RANKS.floor or credit then
    local near = v('near:' .. r)
    if near + grace > now then
      slot = math.max(slot, near + turn)
      first = first and r == me
    end
    crowded = crowded or (r ~= RANKS.floor and r < me and v('far:' .. r) > now)
  end
end

local wait
if free <= now and first then
  p.next = math.max(v('next'), now - SLACK) + interval
  begin_call(id, now + lasts)
  ttl = math.max(ttl or 0, lasts)
  if v('near:' .. me) <= now then p['near:' .. me] = 0 end
  if floor_step then p['due:' .. class] = math.min(p['due:' .. class], now) + floor_step end
else
  slot = math.max(slot, now + 1000) -- the first in line is late
  local near = math.max(NEAR, turn)
  if crowded and floor_step then
    p['far:' .. me] = math.max(v('far:' .. me) + floor_step, p['due:' .. class])
    wait = p['far:' .. me] - now
  elseif slot <= now + near then
    p['near:' .. me] = slot
    wait = slot - now
  else
    p['far:' .. me] = math.max(v('far:' .. me), now + near) + math.floor(turn * CROWD)
    wait = p['far:' .. me] - now
  end
  if wait > WAIT_MOST then wait = WAIT_MOST / 2 + now % 1000 * WAIT_MOST / 2000 end
end

changed = true
if wait then return {'wait', text(wait)} end
if not floor_step then
  easy = {class = class, per_second = a.per_second, concurrent = a.concurrent, most = concurrent, interval = interval}
end
return {'begun', text(now)}
