-- Before each script that serves calls: ARGV are calls in JSON, each with the operation it asks for, `op`. What the
-- operations share of the call in hand is set by each.lua: `a`, the call; `now`, the time, given by tests only. It calls
-- `prepare` before each and `finish` after all of them. Times are microseconds, and text when they are stored, because
-- Redis would round them.
--
-- The calls that every order makes come plain instead, as how many values follow, then the operation, the time and what
-- else `plain` knows the places of: to read JSON costs as much as to write an entry.
local a, now
local ops, plain = {}, {}
local function prepare() end
local function finish() end
local texts = {}
local function text(n)
  local t = texts[n]
  if not t then
    t = string.format('%.0f', n)
    texts[n] = t
  end
  return t
end
