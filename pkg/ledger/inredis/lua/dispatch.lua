-- Does the calls one after the other and returns each answer at its place. A call that fails answers {'error', why} and
-- does not affect the others.
local t = redis.call('TIME')
local server_now = t[1] * 1000000 + t[2]
local function do_one(at)
  local op = ARGV[at]
  now = tonumber(ARGV[at + 1])
  if now == 0 then now = server_now end
  local answer = fast[op] and fast[op](at + 2)
  if answer then return answer end
  if define then
    define()
    define = nil
  end
  a = {}
  for i, name in ipairs(params[op]) do a[name] = ARGV[at + 1 + i] end
  prepare()
  return ops[op]()
end
local answers, i = {}, 1
while ARGV[i] do
  local ok, got = pcall(do_one, i + 1)
  if not ok then got = {'error', type(got) == 'table' and got.err or tostring(got)} end
  answers[#answers + 1] = got
  i = i + 1 + ARGV[i]
end
finish()
return answers
