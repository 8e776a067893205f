package inredis_test

import (
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/redistest"
)

// The list of due sellers is written beside a document. When it is lost (a crash in between, an earlier build that does not
// write it, a failover that lost one of the two), a pass over all sellers finds those that have something followed.
func TestALostHintOfADueSellerIsFound(t *testing.T) {
	server := redistest.Start(t)
	l := open(t, server.URL(), nil)
	ctx, kinds := t.Context(), []string{"purchase", "order"}
	for _, name := range []string{"acme", "bolt"} {
		request := ledger.ClaimRequest{Key: ledger.Key{Seller: name, Kind: "order", No: name + "-1"}, Hash: "h", Owner: "o", Group: "G"}
		if _, err := l.Claim(ctx, request); err != nil {
			t.Fatal(err)
		}
		if err := l.Accept(ctx, request, "WH-"+name, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	settings, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	raw := redis.NewClient(settings)
	defer raw.Close()
	if n, err := raw.Del(ctx, "stockbridge:{sellers}:due").Result(); err != nil || n != 1 {
		t.Fatalf("delete the list: %d, %v", n, err)
	}
	now := time.Now()
	if names, _, err := l.DueSellers(ctx, kinds, now, time.Second, 10); err != nil || len(names) != 0 {
		t.Fatalf("without the list: %v, %v", names, err)
	}
	if err := l.RepairDueSellers(ctx, kinds, []string{"nobody", "acme", "bolt"}); err != nil {
		t.Fatal(err)
	}
	names, _, err := l.DueSellers(ctx, kinds, now, time.Second, 10)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"acme", "bolt"}) {
		t.Fatalf("after the repair: %v, %v", names, err)
	}
}

// What is idle costs nothing: sellers with nothing followed are not in the list.
func TestASellerWithNothingFollowedIsNotListed(t *testing.T) {
	server := redistest.Start(t)
	now := time.Now()
	l := open(t, server.URL(), func() time.Time { return now })
	request := ledger.ClaimRequest{Key: ledger.Key{Seller: "acme", Kind: "order", No: "A-1"}, Hash: "h", Owner: "o", Group: "G"}
	if _, err := l.Claim(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := l.Accept(t.Context(), request, "WH-1", nil, now); err != nil {
		t.Fatal(err)
	}
	e, err := l.Get(t.Context(), request.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Follow(t.Context(), e, ledger.Accepted, ledger.Following{}); err != nil {
		t.Fatal(err)
	}
	if names, _, err := l.DueSellers(t.Context(), []string{"order"}, now, time.Second, 10); err != nil || len(names) != 0 {
		t.Fatalf("due: %v, %v", names, err)
	}
	settings, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	raw := redis.NewClient(settings)
	defer raw.Close()
	if n, err := raw.Exists(t.Context(), "stockbridge:{sellers}:due").Result(); err != nil || n != 0 {
		t.Fatalf("the list is still there: %d, %v", n, err)
	}
}
