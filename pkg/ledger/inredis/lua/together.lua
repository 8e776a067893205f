-- Runs before each script that serves batches: ARGV are calls in JSON, each with its operation, `op`. dispatch
-- (each.lua) sets what the operations share: `a`, the current call; `now`, the time, given by tests only. It calls
-- `prepare` before each call and `finish` after all of them. Times are microseconds, and text when they are stored,
-- because Redis would round them.
--
-- The calls that every order makes come plain instead: how many values follow, then the operation, the time and the
-- values, whose places `plain` knows. Reading JSON costs as much as writing an entry.
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
