-- Runs before each script that serves batches. ARGV are calls: how many values follow, the operation, the time (0 is the
-- server's; tests give their own) and the operation's arguments in the order that its file declares. dispatch.lua sets what
-- operations share: `a`, the arguments of the current call by name; `now`, the time. It calls `prepare` before each call and
-- `finish` after all of them. Times are microseconds, and text when they are stored, because Redis would round them.
local a, now
local ops, params = {}, {}
local fast = {} -- by operation: its common case, which works on ARGV and returns nothing when the call is another case
local define -- defines ops and params, and what they share: in each run anew, which takes longer than a call in its common case
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
