package bus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/smalldisk"
)

// small mounts a file system for the test.
func small(t *testing.T) *smalldisk.Disk {
	t.Helper()
	d, err := smalldisk.Mount(t.TempDir(), 24<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unmount() })
	return d
}

// After a full disk streams stay closed, although the connection stands, reads are answered, small writes to other
// streams succeed and there is space again: until the server is restarted. CheckWrites says so all the while.
func TestTrapAFullDiskClosesStreamsUntilARestart(t *testing.T) {
	t.Parallel()
	disk, quiet := small(t), zerolog.Nop()
	o := server.Options{Dir: disk.Dir + "/nats", Port: server.RandomPort, SyncAlways: true, Log: quiet}
	s, err := server.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	b := connect(t, s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, audit("acme", "A-1"))
	eventually(t, "with space it is ready", func() bool { return b.CheckWrites(t.Context()) == nil && s.Health() == nil })

	// Full.
	must(t, disk.Fill())
	err = asked(t, b)
	if !errors.Is(err, bus.ErrRefusesWrites) || !strings.Contains(err.Error(), "restart nats-server") || !strings.Contains(err.Error(), "重启 nats-server") {
		t.Errorf("full: %v", err)
	}
	if err := s.Health(); !errors.Is(err, server.ErrDisk) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("the server itself says %v", err)
	}
	if b.Ready() != nil || b.CheckTopology(t.Context(), services()...) != nil {
		t.Error("the connection does not stand, or reads are not answered")
	}

	// Space again, and nothing has changed: another process gets the same error.
	must(t, disk.Free())
	other := connect(t, s.URL())
	if err := asked(t, other); !errors.Is(err, bus.ErrRefusesWrites) {
		t.Errorf("a stream opened by itself: %v", err)
	}
	b.Close()
	other.Close()

	// The documented step.
	s.Stop()
	if s, err = server.Start(o); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	b = connect(t, s.URL())
	defer b.Close()
	publish(t, b, audit("acme", "A-2"))
	eventually(t, "restarted it is ready", func() bool { return b.CheckWrites(t.Context()) == nil && s.Health() == nil })
}

// connect connects until Close: a connection left open would wait for a server that is gone.
func connect(t *testing.T, url string) *bus.Bus {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Options{URL: url, Name: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// asked asks for a moment only: a closed stream never answers.
func asked(t *testing.T, b *bus.Bus) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	b.ForgetProbe()
	return b.CheckWrites(ctx)
}

// A server that was started on a full disk has computed that it may store nothing.
func TestAServerThatStartedOnAFullDisk(t *testing.T) {
	t.Parallel()
	s, err := server.Start(server.Options{Dir: t.TempDir(), Port: server.RandomPort, Config: "jetstream { max_file_store: 1KiB }", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	b := connect(t, s.URL())
	defer b.Close()
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.PublishRaw(t.Context(), "stock.adjusted.acme", nil, make([]byte, 2048)); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckWrites(t.Context()); !errors.Is(err, bus.ErrStorageUsedUp) {
		t.Errorf("it says %v", err)
	}
}

// The probe's bucket may be fine while the stream that this process publishes to is closed.
func TestAStreamThatTakesNothingIsNamed(t *testing.T) {
	t.Parallel()
	var s bus.Writes
	late := context.DeadlineExceeded
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	says := func(epoch uint64, seconds int) string {
		if err := s.Refused(epoch, at(seconds)); err != nil {
			return err.Error()
		}
		return ""
	}
	s.Note(1, "stock.adjusted.acme", at(0), at(1), late)
	if got := says(1, 2); got != "" {
		t.Errorf("after one publish that was not answered within a second: %s", got)
	}
	s.Note(1, "seller.paused.acme", at(0), at(2), nil)
	s.Note(1, "stock.adjusted.bolt", at(1), at(6), late)
	s.Note(1, "$KV.LEDGER.entry.x", at(0), at(6), late)
	if got := says(1, 7); !strings.Contains(got, "stream KV_LEDGER for 7s, STOCK for 7s") {
		t.Errorf("two take nothing: %s", got)
	}
	// The message itself was refused, or its sender gave up: that says nothing about the store.
	s.Note(1, "stock.adjusted.acme", at(7), at(8), bus.ErrTooLarge)
	s.Note(1, "vmi.noted.acme", at(0), at(8), context.Canceled)
	s.Note(1, "$KV.LEDGER.entry.y", at(7), at(8), nil)
	if got := says(1, 8); !strings.Contains(got, "stream STOCK for 8s: ") || strings.Contains(got, "VMI") {
		t.Errorf("one takes again: %s", got)
	}
	if got := says(1, 300); got != "" {
		t.Errorf("nobody has tried for minutes: %s", got)
	}
	if got := says(2, 8); got != "" {
		t.Errorf("the connection is with another run of the server: %s", got)
	}
}

// Each way to publish is recorded.
func TestPublishesAreNoted(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	setup, err := b.Bucket(t.Context(), bus.BucketSetup)
	must(t, err)
	must(t, b.JS().DeleteStream(t.Context(), "STOCK")) // nobody answers
	must(t, b.JS().DeleteStream(t.Context(), "KV_SETUP"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := b.PublishRaw(ctx, "stock.adjusted.acme", nil, []byte("x")); err == nil || !b.Refusal("STOCK") {
		t.Errorf("%v is not noted", err)
	}
	if _, err := setup.Create(ctx, "seller.acme", nil); err == nil || !b.Refusal("KV_SETUP") {
		t.Errorf("%v is not noted", err)
	}
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.PublishRaw(t.Context(), "stock.adjusted.acme", nil, []byte("x")); err != nil || b.Refusal("STOCK") {
		t.Errorf("%v: what was stored ends it", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
