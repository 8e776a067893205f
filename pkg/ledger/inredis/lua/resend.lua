-- It is about to be sent again. Answers {'ok'} or {'lost'}; a claim that ran out is lost, as another may begin now.
local e = load()
if not mine(e) or now >= tonumber(e['until']) then return {'lost'} end
e.prior, e.prior_identity = 'unknown', e.identity or ''
e.denied, e.looks, e.doubt, e.sure = '', '', '', ''
save(e)
return {'ok'}
