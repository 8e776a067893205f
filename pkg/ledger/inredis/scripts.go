package inredis

import (
	_ "embed"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lua/clock.lua
	clockLua string
	//go:embed lua/document.lua
	documentLua string
	//go:embed lua/begin.lua
	beginLua string
	//go:embed lua/accept.lua
	acceptLua string
	//go:embed lua/refuse.lua
	refuseLua string
	//go:embed lua/doubt.lua
	doubtLua string
	//go:embed lua/absent.lua
	absentLua string
	//go:embed lua/release.lua
	releaseLua string
	//go:embed lua/resend.lua
	resendLua string
	//go:embed lua/follow.lua
	followLua string
	//go:embed lua/find.lua
	findLua string
	//go:embed lua/due.lua
	dueLua string
	//go:embed lua/acquire.lua
	acquireLua string
	//go:embed lua/return.lua
	returnLua string
	//go:embed lua/count.lua
	countLua string
	//go:embed lua/lease.lua
	leaseLua string
	//go:embed lua/unlease.lua
	unleaseLua string
	//go:embed lua/admit.lua
	admitLua string
)

// The scripts. Each is one round trip; a server that does not know it yet is sent it once.
var (
	beginScript   = redis.NewScript(clockLua + documentLua + beginLua)
	acceptScript  = redis.NewScript(clockLua + documentLua + acceptLua)
	refuseScript  = redis.NewScript(clockLua + documentLua + refuseLua)
	doubtScript   = redis.NewScript(clockLua + documentLua + doubtLua)
	absentScript  = redis.NewScript(clockLua + documentLua + absentLua)
	releaseScript = redis.NewScript(clockLua + documentLua + releaseLua)
	resendScript  = redis.NewScript(clockLua + documentLua + resendLua)
	followScript  = redis.NewScript(clockLua + documentLua + followLua)
	findScript    = redis.NewScript(clockLua + documentLua + findLua)
	dueScript     = redis.NewScript(clockLua + documentLua + dueLua)
	acquireScript = redis.NewScript(clockLua + acquireLua)
	returnScript  = redis.NewScript(clockLua + returnLua)
	countScript   = redis.NewScript(countLua)
	leaseScript   = redis.NewScript(clockLua + leaseLua)
	unleaseScript = redis.NewScript(unleaseLua)
	admitScript   = redis.NewScript(admitLua)
)
