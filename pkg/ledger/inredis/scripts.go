package inredis

import (
	"embed"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
)

//go:embed lua/*.lua
var lua embed.FS

// scripts are all that a ledger has. A server that does not know one yet is sent it once. document, quota and lease do
// any number of calls in one run, each with the operation that it asks for.
type scripts struct {
	document, quota, lease, count, admit *redis.Script
	readBook, writeBook, dropBook        *redis.Script
}

func newScripts() scripts {
	return scripts{
		document: together([]string{"birth", "document"}, "begin", "begin_plain", "accept", "accept_plain", "refuse", "deny", "doubt", "absent", "release", "resend", "follow", "find", "due", "refusals", "erase"),
		quota:    together([]string{"quota"}, "acquire_plain", "return_plain"),
		lease:    together(nil, "lease", "unlease"),
		count:    redis.NewScript(source("count")),
		admit:    redis.NewScript(source("admit")),

		readBook:  redis.NewScript(source("book") + source("birth") + source("read_book")),
		writeBook: redis.NewScript(source("book") + source("write_book")),
		dropBook:  redis.NewScript(source("book") + source("drop_book")),
	}
}

// together makes one script of operations and of what they share. An operation X_plain is how X takes its arguments one by
// one.
func together(shared []string, operations ...string) *redis.Script {
	var b strings.Builder
	fmt.Fprintf(&b, "local KEEP_ATTEMPTS, MAX_SHARING, KEEP_SETTLED, KEEP_REFUSALS, CLAIM_FOR, BIRTH_MARGIN = %d, %d, %d, %d, %d, %d\n", // s, s, µs, µs
		ledger.KeepAttempts, ledger.MaxSharing, int(keepSettled.Seconds()), int(ledger.RefusalsKept.Seconds()), ledger.ClaimFor.Microseconds(), ledger.EpochMargin.Microseconds())
	b.WriteString(source("together"))
	for _, name := range shared {
		b.WriteString(source(name))
	}
	for _, op := range operations {
		if name, ok := strings.CutSuffix(op, "_plain"); ok {
			b.WriteString("plain['" + name + "'] = function(at)\n" + source(op) + "end\n")
		} else {
			b.WriteString("ops['" + op + "'] = function()\n" + source(op) + "end\n")
		}
	}
	b.WriteString(source("each"))
	return redis.NewScript(b.String())
}

func source(name string) string {
	text, err := lua.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is built in
	}
	return string(text)
}
