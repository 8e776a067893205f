package bus_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
)

func TestABucketComparesBeforeItWritesAndSendsEachChange(t *testing.T) {
	ctx := t.Context()
	b := bustest.Start(t, services()...)
	k, err := b.Bucket(ctx, bus.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Get(ctx, "a.b"); !errors.Is(err, bus.ErrKeyNotFound) {
		t.Fatalf("get of nothing: %v", err)
	}
	r1, err := k.Create(ctx, "a.b", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(ctx, "a.b", []byte("2")); !errors.Is(err, bus.ErrKeyExists) {
		t.Fatalf("second create: %v", err)
	}
	r2, err := k.Update(ctx, "a.b", []byte("2"), r1)
	if err != nil || r2 <= r1 {
		t.Fatalf("update: %d after %d, %v", r2, r1, err)
	}
	if _, err := k.Update(ctx, "a.b", []byte("3"), r1); !errors.Is(err, bus.ErrRevision) {
		t.Fatalf("stale update: %v", err)
	}
	if _, err := k.Update(ctx, "a.b", []byte("3"), 0); !errors.Is(err, bus.ErrRevision) {
		t.Fatalf("update as if new: %v", err)
	}
	if err := k.Delete(ctx, "a.b", r1); !errors.Is(err, bus.ErrRevision) {
		t.Fatalf("stale delete: %v", err)
	}

	watchCtx, stop := context.WithCancel(ctx)
	seen, err := k.Watch(watchCtx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if s := <-seen; s.Key != "a.b" || string(s.Data) != "2" || s.Revision != r2 || s.Deleted {
		t.Fatalf("first seen %+v", s)
	}
	if s := <-seen; !s.Current {
		t.Fatalf("then %+v", s)
	}
	if err := k.Delete(ctx, "a.b", r2); err != nil {
		t.Fatal(err)
	}
	if s := <-seen; !s.Deleted || s.Key != "a.b" || s.Data != nil {
		t.Fatalf("deletion seen as %+v", s)
	}
	if _, err := k.Get(ctx, "a.b"); !errors.Is(err, bus.ErrKeyNotFound) {
		t.Fatalf("get of the deleted: %v", err)
	}
	r3, err := k.Create(ctx, "a.b", []byte("4"))
	if err != nil || r3 <= r2 {
		t.Fatalf("create after deletion: %d after %d, %v", r3, r2, err)
	}
	if s := <-seen; string(s.Data) != "4" || s.Revision != r3 {
		t.Fatalf("seen %+v", s)
	}
	if _, err := k.Create(ctx, "ab.c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(ctx, "a.c.d", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if s := <-seen; s.Key != "a.c.d" {
		t.Fatalf("another prefix's key was sent: %+v", s)
	}
	keys, err := k.Keys(ctx, "a")
	slices.Sort(keys)
	if err != nil || !slices.Equal(keys, []string{"a.b", "a.c.d"}) {
		t.Fatalf("keys %v, %v", keys, err)
	}
	if keys, err := k.Keys(ctx, "none"); err != nil || len(keys) != 0 {
		t.Fatalf("keys of nothing: %v, %v", keys, err)
	}
	stop()
	for range seen {
	}
}

func TestTopologyAppliedTwiceChangesNothing(t *testing.T) {
	b := bustest.Start(t, services()...)
	if changes, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil || len(changes) != 0 {
		t.Fatalf("%v, %v", changes, err)
	}
	if err := b.CheckTopology(t.Context(), services()...); err != nil {
		t.Fatal(err)
	}
}
