-- Runs before each script about a book, before epoch.lua. ARGV[1] is the time in microseconds, given by tests only;
-- ARGV[2] how long marks are kept, seconds. Names and values are arguments and not JSON, so that any bytes pass.
-- Numbers are text when they are stored or returned, because Redis would round them.
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local cut = math.floor(now / 1000000) - tonumber(ARGV[2]) -- marks up to this second are expired
local meta, fields, marks = KEYS[1] .. 'meta', KEYS[1] .. 'fields', KEYS[1] .. 'marks'
local function text(n) return string.format('%.0f', n) end
