-- Does the calls one after the other and returns each answer at its place. A call that fails answers {'error', why}
-- and does not affect the others.
local t = redis.call('TIME')
local server_now = t[1] * 1000000 + t[2]
local function do_one(call)
  a = cjson.decode(call)
  now = a.now ~= 0 and a.now or server_now
  prepare()
  return ops[a.op]()
end
local function do_plain(at)
  now = tonumber(ARGV[at + 1])
  if now == 0 then now = server_now end
  return plain[ARGV[at]](at + 2)
end
local answers, i = {}, 1
while ARGV[i] do
  local values = tonumber(ARGV[i])
  local ok, got
  if values then
    ok, got = pcall(do_plain, i + 1)
    i = i + 1 + values
  else
    ok, got = pcall(do_one, ARGV[i])
    i = i + 1
  end
  if not ok then got = {'error', type(got) == 'table' and got.err or tostring(got)} end
  answers[#answers + 1] = got
end
finish()
return answers
