-- args: id class per_second concurrent ttl most
-- Starts a call, and up to most - 1 more that follow it, or says how long to wait: {'begun', when, how many more, in how
-- long the first of them may start, interval between them} or {'wait', how long}. inkv/pace.go does the same with the same
-- constants (package quota) and explains it; its Reserved and Deferred are the fields near: and far: here.

load()
local id, class, lasts, most = a.id, a.class, tonumber(a.ttl), tonumber(a.most)
if most == 1 and easy and swept == now and class == easy.class and a.per_second == easy.per_second and a.concurrent == easy.concurrent
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
if ends_at(id) then return {'begun', text(now), '0'} end -- a repeated call: the answer was lost, and with it all turns but one

local own, credit = RANKS[class], false
local floor_step = FLOORS[class] and math.floor(1e6 / per_second / FLOORS[class])
if floor_step then
  if now - v('asked:' .. class) > FLOOR_ACTIVE then p['due:' .. class] = now end
  p['due:' .. class] = math.max(v('due:' .. class), now - FLOOR_ACTIVE)
  p['asked:' .. class] = now
  if p['due:' .. class] <= now then own = 0 end
end
for other in pairs(FLOORS) do
  if p['due:' .. other] and p['due:' .. other] <= now and now - v('asked:' .. other) <= FLOOR_ACTIVE then credit = true end
end

local interval = math.ceil(1e6 / per_second * (1 + (SLACK + JITTER) / 1e6))
local spacing = math.max(interval, math.floor(v('length') / concurrent))
if now - v('next') > math.max(1000000, 4 * spacing) then
  for r = 0, LAST_RANK do p['far:' .. r] = 0 end
end
p.next = math.min(v('next'), now + interval) -- the limit may have been raised meanwhile
local free = p.next
if calls_now >= concurrent then
  free = math.max(free, now + math.max(math.floor(spacing / 2), 1000))
else
  spacing = interval
end

local keep_for = math.min(math.max(interval, MIN_RESERVATION), MAX_RESERVATION)
local slot, first, deferred_before = free, true, false
for r = 0, own do
  if r ~= 0 or credit then
    local reserved = v('near:' .. r)
    if reserved + keep_for > now then
      slot = math.max(slot, reserved + spacing)
      first = first and r == own
    end
    deferred_before = deferred_before or (r ~= 0 and r < own and v('far:' .. r) > now)
  end
end

local wait
local more, from = 0, 0
if free <= now and first then
  p.next = math.max(v('next'), now - SLACK) + interval
  begin_call(id, now + lasts)
  ttl = math.max(ttl or 0, lasts)
  if v('near:' .. own) <= now then p['near:' .. own] = 0 end
  if floor_step then p['due:' .. class] = math.min(p['due:' .. class], now) + floor_step end
  from = p.next - now
  if most > 1 and not floor_step and nobody_waits(keep_for) then
    while more < most - 1 and p.next <= now + BLOCK_AHEAD and 2 * calls < concurrent do
      more = more + 1
      p.next = p.next + interval
      begin_call(id .. '.' .. more, now + lasts)
    end
  end
else
  slot = math.max(slot, now + 1000) -- the first in line is late
  local ahead = math.max(RESERVE_AHEAD, spacing)
  if deferred_before and floor_step then
    p['far:' .. own] = math.max(v('far:' .. own) + floor_step, p['due:' .. class])
    wait = p['far:' .. own] - now
  elseif slot <= now + ahead then
    p['near:' .. own] = slot
    wait = slot - now
  else
    p['far:' .. own] = math.max(v('far:' .. own), now + ahead) + math.floor(spacing * DEFERRED_SPACING)
    wait = p['far:' .. own] - now
  end
  if wait > MAX_WAIT then wait = MAX_WAIT / 2 + now % 1000 * MAX_WAIT / 2000 end
end

changed = true
if wait then return {'wait', text(wait)} end
if not floor_step and most == 1 then
  easy = {class = class, per_second = a.per_second, concurrent = a.concurrent, most = concurrent, interval = interval}
end
return {'begun', text(now), text(more), text(from), text(interval)}
