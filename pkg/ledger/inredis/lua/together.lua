-- Before each script that serves calls: ARGV are calls in JSON, each with the operation it asks for, `op`. What the
-- operations share of the call in hand is set by each.lua: `a`, the call; `now`, the time, given by tests only. Times
-- are microseconds, and text when they are stored, because Redis would round them.
local a, now
local ops = {}
local function prepare() end
local function text(n) return string.format('%.0f', n) end
