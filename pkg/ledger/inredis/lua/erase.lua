-- args: kind no
-- Removes other people's text from an entry that is neither claimed nor unknown. Returns {'ok'}, {'none'} or
-- {'busy'}.
local e = load()
if not is(e.version) then return {'none'} end
if e.state == 'intent' or e.state == 'unknown' and not external(e) then return {'busy'} end
local found = false
local lines = {}
for line in string.gmatch(e.history or '', '[^\n]+') do
  local h = cjson.decode(line)
  if is(h.detail) and (h.what == 'unknown' or h.what == 'released') then -- the others hold numbers and codes
    found, h.detail = true, ''
  end
  lines[#lines + 1] = cjson.encode(h)
end
local function quiet(field)
  if not is(e[field]) then return end
  local why = cjson.decode(e[field])
  if not is(why.RemoteText) and (why.ZH ~= why.EN or not is(why.ZH)) then return end -- our own text
  found, why.RemoteText = true, ''
  if why.ZH == why.EN then why.ZH, why.EN = '', '' end
  e[field] = cjson.encode(why)
end
quiet('reason')
quiet('denied')
if not found then return {'ok'} end
e.history = table.concat(lines, '\n')
save(e)
return {'ok'}
