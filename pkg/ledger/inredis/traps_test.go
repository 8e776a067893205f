package inredis_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/ledgertest"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/smalldisk"
)

func order(no, owner string) ledger.ClaimRequest {
	return ledger.ClaimRequest{
		Key: ledger.Key{Seller: "acme", Kind: "order", No: no}, Hash: "h", Owner: owner, Group: "SO-1", Items: []string{no + ".1"},
		StreamTime: time.Now(), AuditedAt: time.Now(), First: true,
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The client repeats a command whose answer was cut off: the script runs twice. The second answer must equal the
// first.
func TestLostAnswersAreGivenAgain(t *testing.T) {
	server := redistest.Start(t)
	proxy := server.Proxy()
	l := open(t, proxy.URL(), nil)
	ctx := t.Context()
	cuts := 0
	cut := func(part string) {
		t.Helper()
		proxy.WantCuts(t, cuts) // the one before was really cut
		proxy.CutAnswer(part)
		cuts++
	}
	// The scripts are known to the server from here on, so a cut hits the script itself.
	warm := order("warm", "w0")
	ok(t, l.Release(ctx, must(l.Claim(ctx, warm))(t).Claim, "x"))
	ok(t, l.MarkUnknown(ctx, must(l.Claim(ctx, order("warm", "w1")))(t).Claim, "x"))
	must(l.Claim(ctx, order("warm", "w2")))(t)
	ok(t, l.Resend(ctx, ledger.Claim{Key: warm.Key, Owner: "w2"}))
	_, _, err := l.MarkNotFound(ctx, ledger.Claim{Key: warm.Key, Owner: "w2"})
	ok(t, err)
	ok(t, l.Refuse(ctx, must(l.Claim(ctx, order("warm", "w3")))(t).Claim, fault.Reason{}))
	ok(t, l.Accept(ctx, order("warm", "w4"), "N", nil, time.Now()))
	ok(t, l.Follow(ctx, must(l.Get(ctx, warm.Key))(t), ledger.Cancelled, ledger.Following{}))
	must(l.WantCancel(ctx, warm.Key, ledger.Cancel{RequestID: "R"}))(t)
	ok(t, l.EndCancel(ctx, warm.Key, "R", ""))
	must(l.Count(ctx, "warm"))(t)
	must(l.Lease(ctx, "warm", "w", time.Second))(t)
	must(l.Admit(ctx, "warm", "A", 1))(t)
	p, _, err := l.Acquire(ctx, "warm", "push", ledger.Limit{PerSecond: 1, Concurrent: 1}, time.Second)
	ok(t, err)
	ok(t, l.Return(ctx, p))

	cut("{acme}")
	claimed := must(l.Claim(ctx, order("A1", "w1")))(t)
	if claimed.Claim.Owner != "w1" || claimed.Entry.State != ledger.New || claimed.Entry.Tries != 0 {
		t.Errorf("the claim was won and stored, and is returned as %+v", claimed)
	}
	if e := must(l.Get(ctx, claimed.Claim.Key))(t); e.Tries != 1 {
		t.Errorf("begun %d times", e.Tries)
	}

	cut("{acme}")
	ok(t, l.MarkUnknown(ctx, claimed.Claim, "x"))
	claim := must(l.Claim(ctx, order("A1", "w2")))(t).Claim
	cut("{acme}")
	lookups, _, err := l.MarkNotFound(ctx, claim)
	if err != nil || lookups != 1 {
		t.Errorf("one look is %d, %v", lookups, err)
	}
	claim = must(l.Claim(ctx, order("A1", "w3")))(t).Claim
	cut("{acme}")
	ok(t, l.Resend(ctx, claim))
	cut("{acme}")
	ok(t, l.Release(ctx, claim, "x"))
	claim = must(l.Claim(ctx, order("A1", "w4")))(t).Claim
	cut("{acme}")
	ok(t, l.Refuse(ctx, claim, fault.Reason{Code: "x"}))
	request := order("A1", "w5")
	must(l.Claim(ctx, request))(t)
	cut("{acme}")
	ok(t, l.Accept(ctx, request, "N1", nil, time.Now()))
	e := must(l.Get(ctx, request.Key))(t)
	history := func(no string) string {
		t.Helper()
		var what []string
		for _, a := range must(l.Get(ctx, order(no, "").Key))(t).Attempts {
			what = append(what, a.What)
		}
		return strings.Join(what, " ")
	}
	if want := "begun unknown begun absent begun released begun refused begun accepted"; history("A1") != want {
		t.Errorf("history: %s\nwant:    %s", history("A1"), want)
	}
	cut("{acme}")
	ok(t, l.Follow(ctx, e, ledger.Cancelled, ledger.Following{State: []byte(`{"Code":"10028"}`)}))
	cut("{acme}")
	e = must(l.WantCancel(ctx, order("A2", "").Key, ledger.Cancel{RequestID: "R"}))(t)
	if stored := must(l.Get(ctx, e.Key))(t); e.Cancel == nil || e.Version != 1 || !reflect.DeepEqual(e, stored) {
		t.Errorf("the wish is stored as\n%+v\nand returned as\n%+v", stored, e)
	}
	cut("{acme}")
	ok(t, l.EndCancel(ctx, e.Key, "R", ""))
	if want := "cancel.wanted cancel.ended"; history("A2") != want {
		t.Errorf("history: %s, want %s", history("A2"), want)
	}

	cut("lease:")
	if got := must(l.Lease(ctx, "poll/acme", "w1", time.Minute))(t); !got {
		t.Error("a lease that was won is returned as another's")
	}
	cut("{acme}:trial")
	if !must(l.Admit(ctx, "acme", "A1", 1))(t) {
		t.Error("admitted, and reported as not")
	}
	limit := ledger.Limit{PerSecond: 1e6, Concurrent: 1}
	cut("{quota:")
	p, wait, err := l.Acquire(ctx, "app", "push", limit, time.Minute)
	if err != nil || p.ID == "" {
		t.Fatalf("the only permit went to nobody: wait %s, %v", wait, err)
	}
	cut("{quota:")
	ok(t, l.Return(ctx, p))
	if p, wait, err := l.Acquire(ctx, "app", "push", limit, time.Minute); err != nil || p.ID == "" {
		t.Errorf("a returned permit is not free: wait %s, %v", wait, err)
	}
	proxy.WantCuts(t, cuts)
}

// INCR may count twice after an answer was cut off; a count that is too low would let a message run for ever.
func TestACountIsNeverTooLowWhenAnAnswerIsLost(t *testing.T) {
	proxy := redistest.Start(t).Proxy()
	l := open(t, proxy.URL(), nil)
	ctx := t.Context()
	must(l.Count(ctx, "m"))(t)
	for want := 2; want <= 4; want++ {
		proxy.CutAnswer("attempts:m")
		if n := must(l.Count(ctx, "m"))(t); n != want {
			t.Fatalf("run %d counts as %d", want, n)
		}
	}
	proxy.CutAnswer("attempts:m")
	ok(t, l.Uncount(ctx, "m"))
	proxy.WantCuts(t, 4)
	if n := must(l.Count(ctx, "m"))(t); n != 4 {
		t.Errorf("after one of four was taken back the next is %d", n)
	}
}

func TestContextEndsACallOnAHungRedis(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	must(l.Claim(t.Context(), order("A1", "w1")))(t)
	wake := server.Hang()
	defer wake()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	returned := make(chan error, 1)
	go func() {
		_, err := l.Claim(ctx, order("A2", "w1"))
		returned <- err
	}()
	<-ctx.Done()
	select {
	case err := <-returned:
		if err == nil {
			t.Error("a hung Redis answered")
		}
	case <-time.After(2500 * time.Millisecond): // below the socket's own limit of 3 s, of which there are three
		t.Fatal("the call outlives its context")
	}
}

// A message's attempts are counted here, because the broker forgets them when it crashes. They outlive a Redis restart.
func TestAttemptsSurviveARestart(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	for range 5 {
		must(l.Count(t.Context(), "order-pusher/ORDERS/7"))(t)
	}
	server.Restart()
	if n := must(l.Count(t.Context(), "order-pusher/ORDERS/7"))(t); n != 6 {
		t.Errorf("the sixth run counts as %d", n)
	}
}

// An older copy of the data brings an older epoch back. The epoch shows it itself: another server wrote it.
func TestAnOlderCopyEndsTheEpoch(t *testing.T) {
	server := redistest.Start(t)
	clock := ledgertest.NewClock(time.Now())
	l := open(t, server.URL(), clock.Now)
	ctx := t.Context()
	first := must(l.Claim(ctx, order("first", "w0")))(t)
	clock.Add(time.Hour)
	copied := server.Copy()

	at := func(b ledger.ClaimRequest) ledger.ClaimRequest {
		b.StreamTime, b.AuditedAt = clock.Now(), clock.Now()
		return b
	}
	lost := at(order("lost", "w1"))
	if claimed := must(l.Claim(ctx, lost))(t); !claimed.NeverSent || !claimed.EpochSince.Equal(first.EpochSince) {
		t.Fatalf("before: %+v", claimed)
	}
	ok(t, l.Accept(ctx, lost, "N1", nil, clock.Now()))

	server.Restore(copied)
	clock.Add(time.Minute)
	if _, err := l.Get(ctx, lost.Key); !errors.Is(err, ledger.ErrNoEntry) {
		t.Fatalf("the older copy knows what came later: %v", err)
	}
	if _, err := l.Get(ctx, first.Claim.Key); err != nil {
		t.Fatalf("the older copy does not know what came before: %v", err)
	}
	lost.Owner = "w2" // redelivered, and the broker reports a first delivery
	claimed := must(l.Claim(ctx, lost))(t)
	if claimed.NeverSent {
		t.Error("an order that was sent after the copy was made is returned as certainly new")
	}
	if !claimed.EpochSince.Equal(clock.Now().UTC().Truncate(time.Microsecond)) {
		t.Errorf("epoch since %s, restored at %s", claimed.EpochSince, clock.Now())
	}
}

// Redis is restarted while orders are in work.
func TestRestartInTheMiddle(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	ctx := t.Context()
	clock := ledgertest.NewClock(time.Now())
	aged := open(t, server.URL(), clock.Now)
	must(aged.Claim(ctx, order("first", "w0")))(t)
	clock.Add(time.Hour)

	sending := order("sending", "w1")
	sending.StreamTime, sending.AuditedAt = clock.Now(), clock.Now()
	waiting := order("waiting", "w1")
	waiting.StreamTime, waiting.AuditedAt = clock.Now(), clock.Now()
	claim := must(aged.Claim(ctx, sending))(t)
	if !claim.NeverSent {
		t.Fatal("not new before the restart")
	}
	server.Restart()

	ok(t, l.MarkUnknown(ctx, claim.Claim, "connection reset"))
	sending.Owner = "w2"
	if claimed := must(aged.Claim(ctx, sending))(t); claimed.NeverSent || claimed.Entry.State != ledger.Unknown {
		t.Errorf("what was under way: %+v", claimed)
	}
	if claimed := must(aged.Claim(ctx, waiting))(t); claimed.NeverSent {
		t.Error("what was published before the restart is returned as certainly new")
	}
}

// The suite's story, while answers are cut off at random.
func TestStoryOverABadConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := server.Proxy()
	s := throughProxy{store{t, server}, proxy}
	ledgertest.Story(t, s, func(t *rapid.T) {
		if rapid.IntRange(0, 14).Draw(t, "cut") == 0 {
			proxy.CutAnswer("{s")
		}
	})
}

type throughProxy struct {
	store
	proxy *redistest.Proxy
}

func (s throughProxy) Open(now func() time.Time) ledger.Ledger { return open(s.t, s.proxy.URL(), now) }

func TestCheckNamesEachFault(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	for _, test := range []struct {
		name     string
		settings []string
		codes    []string
	}{
		{"fit", nil, nil},
		{"snapshots instead of the append-only file", []string{"appendonly no", "save 900 1"}, nil},
		{"nothing is kept", []string{"appendonly no"}, []string{"ledger.volatile"}},
		{"evicting", []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}, []string{"ledger.evicting"}},
		{"evicting what expires", []string{"maxmemory-policy volatile-ttl"}, []string{"ledger.evicting"}},
		{"a replica", []string{"replicaof " + host + " " + port}, []string{"ledger.replica"}},
		{
			"all at once", []string{"appendonly no", "maxmemory-policy allkeys-random", "replicaof " + host + " " + port},
			[]string{"ledger.replica", "ledger.evicting", "ledger.volatile"},
		},
		{"settings cannot be read", []string{"appendonly no", "rename-command CONFIG hidden"}, []string{"ledger.volatile"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := open(t, redistest.Start(t, test.settings...).URL(), nil).Check(t.Context())
			if got := codes(err); !reflect.DeepEqual(got, test.codes) {
				t.Errorf("faults %v, want %v: %v", got, test.codes, err)
			}
		})
	}
	gone := open(t, "redis://127.0.0.1:1/0", nil)
	if err := gone.Check(t.Context()); err == nil || codes(err) != nil {
		t.Errorf("no server: %v", err)
	}
}

// A full Redis answers reads and INFO; Check reports why it refuses writes, and until when.
func TestCheckWrites(t *testing.T) {
	t.Parallel()
	says := func(t *testing.T, l *inredis.Ledger, want ...string) {
		t.Helper()
		err := l.Check(t.Context())
		if err == nil || codes(err) != nil { // which would end a worker that starts
			t.Fatalf("it says %v", err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q is not in: %v", w, err)
			}
		}
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		l := open(t, server.URL(), nil)
		server.Command("CONFIG", "SET", "maxmemory", "1")
		says(t, l, "raise maxmemory", "maxmemory 或", "OOM")
		server.Command("CONFIG", "SET", "maxmemory", "0")
		if err := l.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("the disk of the append-only file", func(t *testing.T) {
		t.Parallel()
		disk, err := smalldisk.Mount(t.TempDir(), 4<<20)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = disk.Unmount() })
		server := redistest.Start(t, `dir "`+disk.Dir+`"`, "auto-aof-rewrite-percentage 0")
		l := open(t, server.URL(), nil)
		if err := errors.Join(l.Check(t.Context()), disk.Fill()); err != nil {
			t.Fatal(err)
		}
		server.Command("SET", "big", strings.Repeat("x", 9000))
		says(t, l, "free space there", "请释放磁盘空间", "MISCONF")
		if err := disk.Free(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); l.Check(t.Context()) != nil; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) { // Redis tries again each second
				t.Fatal(l.Check(t.Context()))
			}
		}
	})
	t.Run("replicas", func(t *testing.T) {
		t.Parallel()
		says(t, open(t, redistest.Start(t, "min-replicas-to-write 1").URL(), nil), "min-replicas-to-write", "从节点不足")
	})
}

// Redis reports its append-only file as off while it loads it.
func TestAServerThatLoadsItsFileIsTemporarilyDown(t *testing.T) {
	server := redistest.Start(t, "key-load-delay 100", "loading-process-events-interval-bytes 1024")
	server.Command("EVAL", `"for i = 1, 12000 do redis.call('SET', 'k' .. i, i) end"`, "0")
	l := open(t, server.URL(), nil)
	restarted, loading := make(chan struct{}), 0
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			err := l.Check(t.Context())
			if codes(err) != nil {
				t.Errorf("a server that is temporarily down: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "still reading") {
				loading++
			}
			select {
			case <-restarted:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	server.Restart()
	close(restarted)
	watching.Wait()
	if loading == 0 {
		t.Error("it was never seen reading its file: the test proves nothing")
	}
}

// codes of the reasons joined in an error.
func codes(err error) (out []string) {
	var r fault.Reason
	switch x := err.(type) { //nolint:errorlint // walks the tree itself
	case nil:
		return nil
	case fault.Reason:
		if x.ZH == "" || x.EN == "" {
			return []string{"without a text"}
		}
		return []string{x.Code}
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			out = append(out, codes(e)...)
		}
		return out
	default:
		if errors.As(err, &r) {
			return codes(errors.Unwrap(err))
		}
		return nil
	}
}

func TestOpenDoesNotRepeatThePassword(t *testing.T) {
	for _, url := range []string{"redis://user:s3cret@host:port:x/0", "postgres://user:s3cret@host/0", "s3cret", "redis://:s3cret@host/zero"} {
		l, err := inredisOpen(url)
		if err == nil {
			t.Errorf("%s opens %v", url, l)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password stands in: %v", err)
		}
	}
}

// Stores have kept another program's document under a hash of its own since version 0.1.
func TestAStoredExternalEntryStaysReadable(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	server.Command("HSET", "stockbridge:{acme}:entry:order:A1", "state", "unknown", "hash", "shadow", "version", "1")
	e, err := l.Get(t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: "A1"})
	if err != nil || e.Origin != ledger.External || e.Hash != "" || e.Reconstructed() {
		t.Errorf("read as %+v, %v", e, err)
	}
}

// Before Following had a State, an order's state was the whole of it.
func TestStoredFollowingsStayReadable(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	const stored = `{"Status":1,"Code":"10019","StatusAt":"2026-03-01T08:00:00Z","Children":null,"Shipped":true,"Waybills":["JDV1"],"Due":"2026-03-01T09:00:00Z"}`
	server.Command("HSET", "stockbridge:{acme}:entry:order:A1", "state", "accepted", "hash", "h", "version", "1", "due", "1772355600000", "following", "'"+stored+"'")
	e, err := l.Get(t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: "A1"})
	if err != nil {
		t.Fatal(err)
	}
	f := e.Following
	if string(f.State) != stored || !slices.Equal(f.Numbers, []string{"JDV1"}) || !f.Due.Equal(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)) {
		t.Errorf("read as %+v", f)
	}
}

// An entry of a build that knew no wishes takes one.
func TestAStoredEntryWithoutAWishTakesOne(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	k := ledger.Key{Seller: "acme", Kind: "order", No: "A1"}
	server.Command("HSET", "stockbridge:{acme}:entry:order:A1", "state", "accepted", "hash", "h", "number", "N1", "version", "4", "tries", "1",
		"begun", "1", "order", "SO-1", "lines", `'["1"]'`, "due", "5", "following", `'{"Due":"2026-03-01T09:00:00Z"}'`)
	server.Command("HSET", "stockbridge:{acme}:lines:order:SO-1", "1", "A1", "2", "A2")
	if e := must(l.Get(t.Context(), k))(t); e.Cancel != nil || e.Following.Due.IsZero() {
		t.Errorf("read as %+v", e)
	}
	if e := must(l.WantCancel(t.Context(), k, ledger.Cancel{RequestID: "R"}))(t); e.Cancel == nil || e.State != ledger.Accepted || e.Version != 5 {
		t.Errorf("wanted: %+v", e)
	}
	ok(t, l.EndCancel(t.Context(), k, "R", ledger.Cancelled))
	if e := must(l.Get(t.Context(), k))(t); e.Cancel != nil || e.State != ledger.Cancelled || !e.Following.Due.IsZero() {
		t.Errorf("ended: %+v", e)
	}
	if n := server.Command("HLEN", "stockbridge:{acme}:lines:order:SO-1"); n != ":1" {
		t.Errorf("lines held: %s", n)
	}
}

// Entries are removed when they are settled and old, live ones never.
func TestSettledEntriesExpireAndTheRestStays(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	ctx := t.Context()
	const day = 24 * 60 * 60
	ttl := func(key string) int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimPrefix(server.Command("TTL", "stockbridge:{acme}:"+key), ":"))
		ok(t, err)
		return n
	}
	stays := func(key string) {
		t.Helper()
		if n := ttl(key); n != -1 {
			t.Errorf("%s goes in %d s", key, n)
		}
	}
	goes := func(key string) {
		t.Helper()
		if n := ttl(key); n < 89*day || n > 90*day {
			t.Errorf("%s goes in %d s", key, n)
		}
	}
	platform := func(no, owner string) ledger.ClaimRequest {
		b := order(no, owner)
		b.PlatformNos = []string{"275"}
		return b
	}
	claimed := must(l.Claim(ctx, platform("A1", "w1")))(t)
	stays("entry:order:A1")
	stays("find:275")
	stays("lines:order:SO-1")
	stays("find:SO-1")
	ok(t, l.MarkUnknown(ctx, claimed.Claim, "x"))
	stays("entry:order:A1")
	ok(t, l.Accept(ctx, platform("A1", "w2"), "N1", nil, time.Now()))
	stays("entry:order:A1")
	stays("find:N1")

	// Another of the same order is settled; this one is not.
	ok(t, l.Refuse(ctx, must(l.Claim(ctx, platform("A2", "w1")))(t).Claim, fault.Reason{}))
	goes("entry:order:A2")
	stays("lines:order:SO-1")
	stays("find:SO-1")
	stays("find:275")

	ok(t, l.Follow(ctx, must(l.Get(ctx, claimed.Claim.Key))(t), ledger.Accepted, ledger.Following{Due: time.Now(), Numbers: []string{"JDV1"}}))
	stays("find:JDV1")

	// Delivered: no longer followed.
	ok(t, l.Follow(ctx, must(l.Get(ctx, claimed.Claim.Key))(t), ledger.Accepted, ledger.Following{Numbers: []string{"JDV1"}}))
	goes("find:275")
	goes("find:JDV1")
	goes("entry:order:A1")
	goes("lines:order:SO-1")
	goes("find:SO-1")
	goes("find:N1")

	// A document that somebody else sends is unknown for ever, and forgotten all the same.
	theirs := order("A9", "w1")
	theirs.Origin, theirs.Group = ledger.External, "SO-9"
	ok(t, l.MarkUnknown(ctx, must(l.Claim(ctx, theirs))(t).Claim, "x"))
	goes("entry:order:A9")
	goes("lines:order:SO-9")
	goes("find:SO-9")

	// A wish that waits for its document is forgotten with it; claimed, it stays.
	wished := order("A8", "w1")
	wished.Group = "SO-8"
	must(l.WantCancel(ctx, wished.Key, ledger.Cancel{RequestID: "R"}))(t)
	goes("entry:order:A8")
	ok(t, l.Release(ctx, must(l.Claim(ctx, wished))(t).Claim, "x"))
	goes("entry:order:A8")
	wished.Owner = "w2"
	must(l.Claim(ctx, wished))(t)
	stays("entry:order:A8")
	must(l.WantCancel(ctx, claimed.Claim.Key, ledger.Cancel{RequestID: "R"}))(t)
	goes("entry:order:A1")

	// Claimed once more: everything stays again.
	must(l.Claim(ctx, order("A3", "w1")))(t)
	stays("entry:order:A3")
	stays("lines:order:SO-1")
	stays("find:SO-1")
	goes("entry:order:A1")
}

// A write of a book whose answer was cut off returns its first answer, also when others have written since, and is
// done once.
func TestABookWhoseAnswersAreLostIsWrittenOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := server.Proxy()
	cut, direct := open(t, proxy.URL(), nil), open(t, server.URL(), nil)
	ctx := t.Context()
	read := func(l ledger.Books) ledger.Book {
		t.Helper()
		return must(l.ReadBook(ctx, "b", []string{"n"}, []string{"F1", "F2"}))(t)
	}
	add := func(l ledger.Books, owner string) {
		t.Helper()
		book := read(l)
		n, _ := strconv.Atoi(string(book.Fields["n"]))
		version := must(l.WriteBook(ctx, "b", ledger.BookWrite{
			Version: book.Version, Owner: owner, Fields: map[string][]byte{"n": strconv.AppendInt(nil, int64(n+1), 10)},
			Marks: []ledger.Mark{{Name: "F1", At: time.Now()}},
		}))(t)
		if now := read(direct).Version; version != now {
			t.Errorf("got version %d, it is %d", version, now)
		}
	}
	add(cut, "first") // from here on the scripts are known, so a cut hits the script itself
	for i := range 5 {
		proxy.CutAnswer("owner ")
		add(cut, "owner "+strconv.Itoa(i))
		add(direct, "other "+strconv.Itoa(i))
	}
	proxy.WantCuts(t, 5)
	proxy.CutAnswer("{book:b}")
	if n := string(read(cut).Fields["n"]); n != "11" {
		t.Errorf("11 writes counted %s", n)
	}
	proxy.CutAnswer("{book:b}")
	ok(t, cut.DropBook(ctx, "b")) // its script is not known yet: the answer that says so is cut off
	proxy.CutAnswer("{book:b}")
	ok(t, cut.DropBook(ctx, "b"))
	proxy.WantCuts(t, 8)
	if book := read(cut); book.Version != 0 || len(book.Fields)+len(book.Marked) != 0 {
		t.Errorf("dropped, and returned as %+v", book)
	}
}

// A book in an older copy of the data is returned with another epoch.
func TestAnOlderCopyOfABookEndsItsEpoch(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	write := func(version uint64, owner string) uint64 {
		t.Helper()
		return must(l.WriteBook(t.Context(), "b", ledger.BookWrite{
			Version: version, Owner: owner, Marks: []ledger.Mark{{Name: owner, At: time.Now()}},
		}))(t)
	}
	read := func() ledger.Book {
		t.Helper()
		return must(l.ReadBook(t.Context(), "b", nil, []string{"w1", "w2"}))(t)
	}
	epochSince := read().EpochSince
	v := write(0, "w1")
	copied := server.Copy()
	lost := write(v, "w2")
	if book := read(); !book.EpochSince.Equal(epochSince) || len(book.Marked) != 2 {
		t.Fatalf("before: %+v", book)
	}
	server.Restore(copied)
	book := read()
	if !book.EpochSince.After(epochSince) || len(book.Marked) != 1 || book.Version != v {
		t.Errorf("an older copy, returned as %+v; before since %s", book, epochSince)
	}
	if again := write(v, "w3"); again <= lost {
		t.Errorf("version %d after %d, which was lost", again, lost)
	}
}
