-- What the common cases and all others need of documents.
local function entry_key(kind, no) return base .. 'entry:' .. kind .. ':' .. no end
local function index_key(no) return base .. 'find:' .. no end

-- LIVE lifts live entries above all others in an index; below it the score is when the entry was last written.
local LIVE = 1e17

local noted = {}
local function note_kind(kind)
  if noted[kind] then return end
  redis.call('SADD', base .. 'kinds', kind)
  noted[kind] = true
end

-- line makes a history line of the arguments in ARGV, for fast cases.
local function line(at, what, detail)
  return cjson.encode({
    at = text(now), owner = ARGV[at + 2], stream = ARGV[at + 9], seq = ARGV[at + 10], what = what, detail = detail,
  })
end
