-- args: kind no owner
-- It is about to be sent again. Returns {'ok'} or {'lost'}; an expired claim is lost, as another may claim it now.
local e = load()
if not mine(e) or now >= tonumber(e['until']) then return {'lost'} end
e.prior, e.prior_identity = 'unknown', e.identity or ''
e.denied, e.looks, e.doubt, e.sure = '', '', '', ''
save(e)
return {'ok'}
