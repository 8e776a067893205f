package inredis

import (
	"embed"
	"strings"

	"github.com/redis/go-redis/v9"
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
		document: together([]string{"birth", "document"}, "begin", "accept", "refuse", "doubt", "absent", "release", "resend", "follow", "find", "due"),
		quota:    together([]string{"quota"}, "acquire", "return"),
		lease:    together(nil, "lease", "unlease"),
		count:    redis.NewScript(source("count")),
		admit:    redis.NewScript(source("admit")),

		readBook:  redis.NewScript(source("book") + source("birth") + source("read_book")),
		writeBook: redis.NewScript(source("book") + source("write_book")),
		dropBook:  redis.NewScript(source("book") + source("drop_book")),
	}
}

// together makes one script of operations and of what they share.
func together(shared []string, operations ...string) *redis.Script {
	var b strings.Builder
	b.WriteString(source("together"))
	for _, name := range shared {
		b.WriteString(source(name))
	}
	for _, op := range operations {
		b.WriteString("ops['" + op + "'] = function()\n" + source(op) + "end\n")
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
