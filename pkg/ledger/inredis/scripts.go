package inredis

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

//go:embed lua/*.lua
var lua embed.FS

// scripts are all scripts of a ledger. A server that does not know one yet gets it once.
type scripts struct {
	// document, quota and lease do any number of calls in one run, each with its operation.
	document, quota, lease *script
	count, admit           *redis.Script
	// takeDue and dropDue work on the list of sellers with something due.
	takeDue, dropDue, instance *redis.Script

	readBook, writeBook, dropBook *redis.Script
}

// script is a script of operations.
type script struct {
	*redis.Script
	// params is how many arguments each operation takes.
	params map[string]int
	// due is the place of the argument that says when the document is due next, of operations that have one.
	due map[string]int
}

func newScripts() scripts {
	return scripts{
		document: assemble(documentConstants(), []string{"epoch", "document_common"}, []string{"document"}, "claim", "accept", "refuse", "mark_rejected", "mark_unknown", "mark_not_found",
			"release", "resend", "follow", "want_cancel", "end_cancel", "begin_epoch", "find", "due", "take", "postpone", "refusals", "erase"),
		quota: assemble(pacingConstants(), nil, []string{"quota"}, "acquire", "return"),
		lease: assemble("", nil, nil, "lease", "unlease"),
		count: redis.NewScript(source("count")),
		admit: redis.NewScript(source("admit")),

		takeDue:  redis.NewScript(source("take_due")),
		dropDue:  redis.NewScript(source("drop_due")),
		instance: redis.NewScript(source("epoch") + source("instance")),

		readBook:  redis.NewScript(source("book") + source("epoch") + source("read_book")),
		writeBook: redis.NewScript(source("book") + source("write_book")),
		dropBook:  redis.NewScript(source("book") + source("drop_book")),
	}
}

// followedFields are the fields of ledger.Entry.Followed, in the order of take.lua.
var followedFields = []string{
	"version", "state", "order", "number", "revision", "shop", "warehouse", "identity", "following", "due", "cancel", "begun", "trace", "changed",
}

// documentConstants are s and µs.
func documentConstants() string {
	return fmt.Sprintf("local KEEP_ATTEMPTS, MAX_SHARING, KEEP_SETTLED, KEEP_REFUSALS = %d, %d, %d, %d\nlocal CLAIM_FOR, EPOCH_MARGIN = %d, %d\n",
		ledger.KeepAttempts, ledger.MaxSharing, int(keepSettled.Seconds()), int(ledger.RefusalsKept.Seconds()),
		ledger.ClaimFor.Microseconds(), ledger.EpochMargin.Microseconds())
}

// pacingConstants are those of package quota, µs.
func pacingConstants() string {
	var b strings.Builder
	fmt.Fprintf(&b, "local SLACK, JITTER, RESERVE_AHEAD, DEFERRED_SPACING = %d, %d, %d, %g\n",
		quota.Slack.Microseconds(), quota.Jitter.Microseconds(), quota.ReserveAhead.Microseconds(), quota.DeferredSpacing)
	fmt.Fprintf(&b, "local MIN_RESERVATION, MAX_RESERVATION, MAX_WAIT, FLOOR_ACTIVE, LAST_RANK, BLOCK_AHEAD = %d, %d, %d, %d, %d, %d\nlocal RANKS, FLOORS = {}, {}\n",
		quota.MinReservation.Microseconds(), quota.MaxReservation.Microseconds(), quota.MaxWait.Microseconds(), quota.FloorActiveFor.Microseconds(), len(quota.Classes()), quota.BlockAhead.Microseconds())
	for _, c := range quota.Classes() {
		fmt.Fprintf(&b, "RANKS['%s'] = %d\n", c, c.Rank())
		if c.Floor() > 0 {
			fmt.Fprintf(&b, "FLOORS['%s'] = %g\n", c, c.Floor())
		}
	}
	return b.String()
}

// argsPrefix begins an operation's file and precedes the names of its arguments.
const argsPrefix = "-- args: "

// assemble makes one script of operations and of what they share, their common cases too or only the others.
func assemble(constants string, common, shared []string, operations ...string) *script {
	s := &script{params: map[string]int{}, due: map[string]int{}}
	var b strings.Builder
	b.WriteString(constants)
	for _, name := range append([]string{"prelude"}, common...) {
		b.WriteString(source(name))
	}
	for _, op := range operations {
		if _, err := lua.Open("lua/" + op + "_fast.lua"); err == nil {
			fmt.Fprintf(&b, "fast['%s'] = function(at)\n%send\n", op, source(op+"_fast"))
		}
	}
	b.WriteString("define = function()\n")
	for _, name := range shared {
		b.WriteString(source(name))
	}
	for _, op := range operations {
		text := source(op)
		line, _, _ := strings.Cut(text, "\n")
		args, ok := strings.CutPrefix(line, argsPrefix)
		if !ok {
			panic(op + ".lua does not begin with its arguments") // it is built in
		}
		names := strings.Fields(args)
		s.params[op] = len(names)
		if i := slices.Index(names, "due"); i >= 0 {
			s.due[op] = i
		}
		fmt.Fprintf(&b, "params['%s'] = {'%s'}\nops['%s'] = function()\n%send\n", op, strings.Join(names, "', '"), op, text)
	}
	b.WriteString("end\n")
	b.WriteString(source("dispatch"))
	s.Script = redis.NewScript(b.String())
	return s
}

func source(name string) string {
	text, err := lua.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is built in
	}
	return string(text)
}
