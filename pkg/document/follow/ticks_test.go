package follow

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// registry are sellers by name, each set up alike.
type registry map[string]*seller.Pause

func (m registry) Names() (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}

func (m registry) Paused() (paused []*seller.Seller) {
	for name, p := range m {
		if s, _ := m.Get(name); p != nil {
			paused = append(paused, s)
		}
	}
	return paused
}

func (m registry) Get(name string) (*seller.Seller, bool) {
	p, known := m[name]
	return seller.New(&sellerv1.Setup{Name: name}, p), known
}

func (m registry) Pause(context.Context, string, seller.Pause) error { return nil }

func (m registry) Resume(context.Context, string, sellerv1.Paused_By) error { return nil }

// due accepts a document of a seller in the ledger: it is due at once.
func (b *fixture) due(name string) {
	b.t.Helper()
	request := ledger.ClaimRequest{Key: ledger.Key{Seller: name, Kind: "order", No: name + "-1"}, Hash: "h", Owner: "pusher", Group: name}
	if _, err := b.all.Claim(b.t.Context(), request); err != nil {
		b.t.Fatal(err)
	}
	if err := b.all.Accept(b.t.Context(), request, "WH-"+name, nil, b.now()); err != nil {
		b.t.Fatal(err)
	}
}

// Only sellers with something due are ticked: of the others, the idle cost nothing, the paused wait for their probe.
func TestTheServicesTickFiresThoseOfSellersWithSomethingDue(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		at := b.now()
		sellers := registry{
			"idle": nil, "due": nil, "due-too": nil,
			"operators":  {By: sellerv1.Paused_BY_OPERATOR},
			"resting":    {By: sellerv1.Paused_BY_BREAKER, ProbeAt: at.Add(time.Minute)},
			"to-probe":   {By: sellerv1.Paused_BY_BREAKER, ProbeAt: at},
			"token-gone": {By: sellerv1.Paused_BY_TOKEN, ProbeAt: at.Add(-time.Second)},
		}
		b.Sellers = sellers
		for _, name := range []string{"due", "due-too", "operators", "resting", "removed"} {
			b.due(name)
		}
		var fired []string
		ticks := Ticks{Follower: b.Follower, All: sellers, Index: b.all, Fire: func(_ context.Context, names []string) error {
			fired = append(fired, names...)
			return nil
		}}
		tick := func() []string {
			t.Helper()
			fired = nil
			if _, err := ticks.PollDue(t.Context(), nil, &sellerv1.PollDue{Seller: event.NoSeller}); err != nil {
				t.Fatal(err)
			}
			slices.Sort(fired)
			return fired
		}
		b.expect("with two due and two to probe", tick(), []string{"due", "due-too", "to-probe", "token-gone"})
		b.wait(5 * time.Second)
		b.expect("while they are still due", tick(), []string{"due", "due-too", "to-probe", "token-gone"})
		b.wait(time.Minute)
		b.expect("when the next probe is due", tick(), []string{"due", "due-too", "resting", "to-probe", "token-gone"})
	})
}

// More sellers than are read at a time are all ticked in one round.
func TestManyDueSellersAreTickedInOneRound(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		sellers := registry{}
		for i := range firePage + 20 {
			name := fmt.Sprintf("s%d", i)
			sellers[name] = nil
			b.due(name)
		}
		b.Sellers = sellers
		fired := map[string]int{}
		ticks := Ticks{Follower: b.Follower, All: sellers, Index: b.all, Fire: func(_ context.Context, names []string) error {
			for _, name := range names {
				fired[name]++
			}
			return nil
		}}
		if _, err := ticks.PollDue(t.Context(), nil, &sellerv1.PollDue{Seller: event.NoSeller}); err != nil {
			t.Fatal(err)
		}
		if len(fired) != len(sellers) {
			t.Errorf("%d of %d sellers were ticked", len(fired), len(sellers))
		}
		for name, n := range fired {
			if n != 1 {
				t.Errorf("%s was ticked %d times", name, n)
			}
		}
	})
}

// repaired is an index that was asked to repair sellers.
type repaired struct{ names map[string]int }

func (r *repaired) RepairDueSellers(_ context.Context, _, sellers []string) error {
	for _, name := range sellers {
		r.names[name]++
	}
	return nil
}

func (*repaired) Instance(context.Context) (string, error) { return "", nil }

func (*repaired) DueSellers(context.Context, []string, time.Time, time.Duration, int) ([]string, bool, error) {
	return nil, false, nil
}

// A lost hint is found within a round of the repair, a minute: each seller is looked through once.
func TestEverySellerIsLookedThroughForALostHint(t *testing.T) {
	sellers, index := registry{}, &repaired{names: map[string]int{}}
	for i := range 100 {
		sellers[fmt.Sprintf("s%d", i)] = nil
	}
	ticks := Ticks{
		Follower: New(Parts{Sellers: sellers, Kinds: []Kind{}}), All: sellers, Index: index, Fire: func(context.Context, []string) error { return nil },
	}
	for range repairSlices {
		if _, err := ticks.PollDue(t.Context(), nil, &sellerv1.PollDue{Seller: event.NoSeller}); err != nil {
			t.Fatal(err)
		}
	}
	for name := range sellers {
		if index.names[name] != 1 {
			t.Errorf("%s was looked through %d times", name, index.names[name])
		}
	}
}
