-- args: kind no owner hash order lines revision shop warehouse stream seq trace identity platforms supersedes first stream_time audited_at any_identity
-- Claims a document and returns what is known of it. Returns {'begun', time left, epoch, never sent, entry as it was,
-- now, sharing} {'known', epoch, entry, now} {'hash', epoch, entry, now} {'busy'} {'identity', epoch, entry, now}
-- {'line', line, number that holds it}.

local born = epoch()
local e = load()
if mine(e) then
  return {'begun', text(e['until'] - now), e.born, e.fresh or '', is(e.told) and cjson.decode(e.told) or {}, text(now), sharing()}
end
if is(e.hash) and e.hash ~= a.hash then return {'hash', born, flat(e), text(now)} end
if e.state == 'accepted' or e.state == 'cancelled' then return {'known', born, flat(e), text(now)} end
if e.state == 'intent' then
  if now < tonumber(e['until']) then return {'busy'} end
  e.state = 'unknown' -- its owner never reported the result, so it may have been sent
  if not is(e.doubt) then e.doubt = text(now) end
end

if e.state == 'unknown' and is(a.identity) and is(e.identity) and e.identity ~= a.identity and a.any_identity ~= '1' then
  return {'identity', born, flat(e), text(now)}
end

local taken
local lines = list(a.lines)
local held = holders(a.order, lines)
for i, line in ipairs(lines) do
  local by = held[i]
  if by and by ~= a.no and live(by) then
    taken = {'line', line, by}
    if by ~= a.supersedes then return taken end
  end
end
if taken then return taken end

local sure = born .. ' ' .. identify()
local never_sent
if unclaimed(e) then
  never_sent = never_sent_since(born)
else
  never_sent = not is(e.state) and e.sure == sure -- released unsent, and nothing was forgotten since
end

e.told = ''
local before = flat(e)
if #before > 0 then e.told = cjson.encode(before) end
e.prior, e.prior_identity = e.state or '', e.identity or ''
e.state = 'intent'
e.owner, e.how = a.owner, ''
e['until'] = text(now + CLAIM_FOR)
e.fresh = never_sent and '1' or ''
e.sure = never_sent and sure or ''
e.born = born
e.hash, e.order, e.lines = a.hash, a.order, a.lines
e.revision, e.shop, e.warehouse, e.platforms = a.revision, a.shop, a.warehouse, a.platforms
if is(a.trace) then e.trace = a.trace end
if is(a.identity) then e.identity = a.identity end
e.tries = text((tonumber(e.tries) or 0) + 1)
take_lines(e, lines, held)
remember(e, 'begun')
save(e)
return {'begun', text(CLAIM_FOR), born, e.fresh, before, text(now), sharing()}
