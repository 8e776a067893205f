package seller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

func bucket(t *testing.T, b *bus.Bus) *bus.Bucket {
	t.Helper()
	k, err := b.Bucket(t.Context(), bus.BucketSetup)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t *testing.T, k *bus.Bucket) *seller.Registry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := seller.Open(ctx, k, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func get(t *testing.T, b *seller.Registry) *seller.Seller {
	t.Helper()
	s, ok := b.Get("acme")
	if !ok {
		t.Fatal("acme is not known")
	}
	return s
}

// overwrite writes key unconditionally, as somebody does who bypasses the Registry.
func overwrite(t *testing.T, k *bus.Bucket, key, data string) {
	t.Helper()
	now, err := k.Get(t.Context(), key)
	if err != nil && !errors.Is(err, bus.ErrKeyNotFound) {
		t.Fatal(err)
	}
	if _, err := k.Update(t.Context(), key, []byte(data), now.Revision); err != nil {
		t.Fatal(err)
	}
}

func TestASetupTakesThePlaceOfTheVersionThatWasRead(t *testing.T) {
	k := bucket(t, bustest.Start(t))
	ours, theirs := open(t, k), open(t, k)
	if _, ok := ours.Get("acme"); ok || len(ours.All()) != 0 || ours.Ready() != nil {
		t.Fatal("a new book is not empty and ready")
	}
	setup := acmeSeller(t).Setup
	first, err := ours.Put(t.Context(), setup, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s := get(t, ours); s.Version != first || s.Pause != nil {
		t.Errorf("right after Put: version %d, want %d", s.Version, first)
	}
	eventually(t, "the other book follows", func() bool { s, ok := theirs.Get("acme"); return ok && s.Version == first })
	if _, ok := get(t, theirs).Shop("S/02"); !ok {
		t.Error("its look-ups are empty")
	}

	changed := proto.CloneOf(setup)
	changed.Title = "new"
	if _, err := theirs.Put(t.Context(), changed, 0); !errors.Is(err, seller.ErrChanged) {
		t.Errorf("creating over what stands: %v", err)
	}
	second, err := theirs.Put(t.Context(), changed, first)
	if err != nil || second <= first {
		t.Fatalf("version %d, %v", second, err)
	}
	if _, err := ours.Put(t.Context(), setup, first); !errors.Is(err, seller.ErrChanged) {
		t.Errorf("on an old version: %v", err)
	}
	if again, err := ours.Put(t.Context(), changed, first); err != nil || again != second {
		t.Errorf("our own write, whose answer was lost: %d %v", again, err)
	}
	eventually(t, "ours follows", func() bool { return get(t, ours).Setup.Title == "new" })

	faulty := proto.CloneOf(setup)
	faulty.Shops[0].Warehouses = []string{"9"}
	var faults seller.Faults
	if _, err := ours.Put(t.Context(), faulty, second); !errors.As(err, &faults) {
		t.Errorf("a faulty set-up: %v", err)
	}
	large := proto.CloneOf(setup)
	for i := range 2000 {
		large.Shops = append(large.Shops[:min(len(large.Shops), 1999)], &sellerv1.Shop{Code: fmt.Sprint(i), ShopNo: "E", Warehouses: []string{"007"}, Hold: strings.Repeat("等", 200)})
	}
	if _, err := ours.Put(t.Context(), large, second); !errors.As(err, &faults) || faults[0].Code != "setup.size" {
		t.Errorf("a set-up larger than a message: %v", err)
	}
	for name, data := range map[string]string{"acme": "{", "other": `{"name":"acme"}`} {
		overwrite(t, k, "seller."+name, data)
	}
	overwrite(t, k, "seller.later", `{"name":"later","of_a_later_version":true}`)
	eventually(t, "a set-up of a later version is read", func() bool { _, ok := ours.Get("later"); return ok })
	if got := get(t, ours).Version; got != second {
		t.Errorf("an unreadable set-up took the place of a good one: version %d", got)
	}
	if all := ours.All(); len(all) != 2 || all[0].Name() != "acme" || all[1].Name() != "later" {
		t.Errorf("All returns %v", all)
	}
}

func TestPausesOutrankEachOther(t *testing.T) {
	k := bucket(t, bustest.Start(t))
	ours, theirs := open(t, k), open(t, k)
	breaker := seller.Pause{By: sellerv1.Paused_BY_BREAKER, Reason: "JD is away", At: now, ProbeAfter: time.Minute, ProbeAt: now.Add(time.Minute)}
	token := seller.Pause{By: sellerv1.Paused_BY_TOKEN, Reason: "token", At: now, ProbeAfter: time.Minute, ProbeAt: now.Add(time.Minute)}
	later := breaker
	later.At, later.ProbeAfter, later.ProbeAt = now.Add(time.Minute), 2*time.Minute, now.Add(3*time.Minute)
	operator := seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "stock-taking", At: now}

	if err := ours.Pause(t.Context(), "acme", operator); fault.Cause(err) != "seller:acme" {
		t.Errorf("pausing nobody: %v", err)
	}
	version, err := ours.Put(t.Context(), acmeSeller(t).Setup, 0)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "theirs follows", func() bool { _, ok := theirs.Get("acme"); return ok })
	for i, step := range []struct {
		name   string
		pause  *seller.Pause
		resume sellerv1.Paused_By
		want   error
	}{
		{"there is nothing to resume", nil, sellerv1.Paused_BY_OPERATOR, seller.ErrNotPaused},
		{"the breaker pauses", &breaker, 0, nil},
		{"another replica's breaker pauses too", &breaker, 0, seller.ErrPaused},
		{"the probe failed", &later, 0, nil},
		{"the token is worse", &token, 0, nil},
		{"the breaker says less than the token", &later, 0, seller.ErrPaused},
		{"the probe succeeds", nil, sellerv1.Paused_BY_BREAKER, nil},
		{"and again", nil, sellerv1.Paused_BY_BREAKER, seller.ErrNotPaused},
		{"the breaker pauses", &breaker, 0, nil},
		{"an operator pauses", &operator, 0, nil},
		{"the token does not change that", &token, 0, seller.ErrPaused},
		{"no probe resumes what an operator paused", nil, sellerv1.Paused_BY_TOKEN, seller.ErrNotPaused},
		{"an operator gives another reason", &operator, 0, nil},
		{"the operator resumes", nil, sellerv1.Paused_BY_OPERATOR, nil},
		{"the token expires", &token, 0, nil},
	} {
		book := []*seller.Registry{ours, theirs}[i%2]
		if step.pause != nil {
			err = book.Pause(t.Context(), "acme", *step.pause)
		} else {
			err = book.Resume(t.Context(), "acme", step.resume)
		}
		if !errors.Is(err, step.want) || err != nil && step.want == nil {
			t.Fatalf("%s: got %v, want %v", step.name, err, step.want)
		}
		if err == nil {
			if diff := cmp.Diff(step.pause, get(t, book).Pause); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", step.name, diff)
			}
			eventually(t, step.name+", and both know", func() bool { return cmp.Equal(get(t, ours).Pause, get(t, theirs).Pause) })
		}
	}
	if s := get(t, ours); s.Version != version {
		t.Errorf("pauses changed the version from %d to %d", version, s.Version)
	} else if _, ok := s.Shop("S01"); !ok {
		t.Error("a pause lost the look-ups")
	}
	if _, err := ours.Put(t.Context(), acmeSeller(t).Setup, version); err != nil {
		t.Fatal(err)
	}
	if get(t, ours).Pause == nil || get(t, open(t, k)).Pause == nil {
		t.Error("applying the set-up, or opening the book, lost the pause")
	}
	overwrite(t, k, "pause.acme", "{")
	eventually(t, "an unreadable pause is a pause", func() bool { p := get(t, ours).Pause; return p != nil && strings.HasPrefix(p.Reason, "unreadable") })
}

func TestManyReplicasPauseASellerOnce(t *testing.T) {
	b := bustest.Start(t)
	k := bucket(t, b)
	books := []*seller.Registry{open(t, k), open(t, k)}
	if _, err := books[0].Put(t.Context(), acmeSeller(t).Setup, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "theirs follows", func() bool { _, ok := books[1].Get("acme"); return ok })
	p := seller.Pause{By: sellerv1.Paused_BY_BREAKER, At: now, ProbeAfter: time.Minute, ProbeAt: now.Add(time.Minute)}
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { errs[i] = books[i%2].Pause(t.Context(), "acme", p) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, seller.ErrPaused) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of 16 paused the seller, want 1: each would publish it", won)
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	k := bucket(t, bustest.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := seller.Open(ctx, k, zerolog.Nop()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A restored older JetStream copy gives out its revisions again: what is written then must not look old.
func TestARegistryFollowsARestoredBucket(t *testing.T) {
	k := bustest.StartRestorable(t)
	b := bustest.Connect(t, k.URL())
	book := open(t, bucket(t, b))
	put := func(name string) {
		t.Helper()
		s := proto.CloneOf(acmeSeller(t).Setup)
		s.Name, s.Accounts[0].Department = name, "EBU-"+name
		if _, err := book.Put(t.Context(), s, 0); err != nil {
			t.Fatal(err)
		}
	}
	put("acme")
	older := k.Copy()
	eventually(t, "the broker is there again", func() bool { return b.Ready() == nil && book.Ready() == nil })
	put("later")
	pause := seller.Pause{By: sellerv1.Paused_BY_BREAKER, Reason: "calls fail", At: time.Now()}
	if err := errors.Join(book.Pause(t.Context(), "acme", pause), book.Resume(t.Context(), "acme", sellerv1.Paused_BY_BREAKER)); err != nil {
		t.Fatal(err)
	}
	k.Restore(older)

	// Another worker, started since, pauses the seller. The one that ran all the time has to learn it.
	other := open(t, bucket(t, bustest.Connect(t, k.URL())))
	if err := other.Pause(t.Context(), "acme", pause); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pause is known", func() bool { return get(t, book).Pause != nil })
	eventually(t, "what the copy does not have is forgotten", func() bool { _, known := book.Get("later"); return !known && book.Ready() == nil })
}

// A worker has to know that what it does not find may be under an account that the set-up no longer names.
func TestARegistryKnowsWhenAnAccountChanged(t *testing.T) {
	k := bucket(t, bustest.Start(t))
	ours, theirs := open(t, k), open(t, k)
	setup := acmeSeller(t).Setup
	version, err := ours.Put(t.Context(), setup, 0)
	if err != nil {
		t.Fatal(err)
	}
	changed := proto.CloneOf(setup)
	changed.Title = "new"
	if version, err = ours.Put(t.Context(), changed, version); err != nil {
		t.Fatal(err)
	}
	if at := get(t, ours).MovedAt; !at.IsZero() {
		t.Errorf("moved at %s, although no account changed", at)
	}
	moved := proto.CloneOf(changed)
	moved.Accounts[0].Department = "EBU0000000000099"
	began := time.Now()
	if _, err := ours.Put(t.Context(), moved, version); err != nil {
		t.Fatal(err)
	}
	at := get(t, ours).MovedAt
	if at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("moved at %s, applied at %s", at, began)
	}
	eventually(t, "the others know", func() bool { s, ok := theirs.Get("acme"); return ok && s.MovedAt.Equal(at) })
	if s := get(t, open(t, k)); !s.MovedAt.Equal(at) {
		t.Errorf("a worker that starts reads %s, want %s", s.MovedAt, at)
	}
}
