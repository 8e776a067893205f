package inkv_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/ledgertest"
	"stockbridge/pkg/smalldisk"
)

// broker is a NATS server in the process that tests can restart.
type broker struct {
	t      testing.TB
	dir    string
	port   int
	server *server.Server
	bus    *bus.Bus
}

func start(t testing.TB) *broker { return startIn(t, t.TempDir()) }

func startIn(t testing.TB, dir string) *broker {
	b := &broker{t: t, dir: dir, port: server.RandomPort}
	b.run()
	t.Cleanup(func() { b.server.Stop() })
	at, err := url.Parse(b.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	if b.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	b.bus = bustest.Connect(t, b.server.URL())
	if _, err := b.bus.Apply(t.Context(), bus.Topology{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) run() {
	b.t.Helper()
	var err error
	if b.server, err = server.Start(server.Options{Dir: b.dir, Port: b.port, Log: zerolog.Nop()}); err != nil {
		b.t.Fatal(err)
	}
}

// restart restarts it on the same files and waits for the connection.
func (b *broker) restart() {
	b.t.Helper()
	before := b.bus.ServerID()
	b.server.Stop()
	b.run()
	for end := time.Now().Add(20 * time.Second); b.bus.ServerID() == before || b.bus.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("not connected again")
		}
	}
}

func (b *broker) bucket(t testing.TB) *bus.Bucket {
	t.Helper()
	bucket, err := b.bus.Bucket(t.Context(), bus.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func (b *broker) books(t testing.TB) *bus.Bucket {
	t.Helper()
	bucket, err := b.bus.Bucket(t.Context(), bus.BucketBooks)
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func (b *broker) open(t testing.TB, now func() time.Time) *inkv.Ledger {
	t.Helper()
	return open(t, inkv.Options{Bucket: b.bucket(t), Books: b.books(t), Identity: b.bus.ServerID, Now: now})
}

func open(t testing.TB, o inkv.Options) *inkv.Ledger {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := inkv.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// store is a bucket that the tests of the suite use one after the other.
type store struct {
	t *testing.T
	*broker
}

func (s store) Open(now func() time.Time) ledger.Ledger { return s.open(s.t, now) }
func (s store) Restart()                                { s.restart() }

func (s store) Wipe() {
	s.t.Helper()
	for _, bucket := range []*bus.Bucket{s.bucket(s.t), s.books(s.t)} {
		keys, err := bucket.Keys(s.t.Context(), "")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, key := range keys {
			if err := bucket.Delete(s.t.Context(), key, 0); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

func TestContract(t *testing.T) {
	b := start(t)
	ledgertest.Test(t, func(t *testing.T) ledgertest.Store {
		s := store{t, b}
		s.Wipe()
		return s
	})
}

// A bucket whose disk was full can still be read.
func TestCheckWrites(t *testing.T) {
	t.Parallel()
	disk, err := smalldisk.Mount(t.TempDir(), 24<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Unmount() })
	b := startIn(t, disk.Dir+"/nats")
	l := b.open(t, nil)
	if err := errors.Join(l.Check(t.Context()), l.Check(t.Context()), disk.Fill()); err != nil {
		t.Fatal(err)
	}
	check := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // a closed stream never answers
		defer cancel()
		return l.Check(ctx)
	}
	// Until the last page of the bucket's file is full too.
	for range 200 {
		if err = check(); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "restart nats-server") || !strings.Contains(err.Error(), "重启 nats-server") {
		t.Fatalf("full: %v", err)
	}
	if err := disk.Free(); err != nil {
		t.Fatal(err)
	}
	if check() == nil {
		t.Error("it opened on its own")
	}
	b.restart()
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("restarted: %v", err)
	}
}
