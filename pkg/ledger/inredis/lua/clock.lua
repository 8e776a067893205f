-- Before each script that needs the arguments as JSON and the time: ARGV[1], with `now` given by tests only. Times are
-- microseconds, and text when they are stored, because Redis would round them.
local a = cjson.decode(ARGV[1])
local function text(n) return string.format('%.0f', n) end
local now = a.now
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
