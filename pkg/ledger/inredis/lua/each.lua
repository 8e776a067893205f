-- After the operations: does the calls one after the other and answers each at its place. One that fails answers
-- {'error', why} and leaves the others alone.
local t = redis.call('TIME')
local server_now = t[1] * 1000000 + t[2]
local function do_one(call)
  a = cjson.decode(call)
  now = a.now ~= 0 and a.now or server_now
  prepare()
  return ops[a.op]()
end
local answers = {}
for i = 1, #ARGV do
  local ok, got = pcall(do_one, ARGV[i])
  if not ok then got = {'error', type(got) == 'table' and got.err or tostring(got)} end
  answers[i] = got
end
finish()
return answers
