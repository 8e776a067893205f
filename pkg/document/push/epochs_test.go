package push

import (
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
)

// A purchase order that comes after a restart of the ledger, or after it lost its data, is certainly new: its seller's epoch
// began without one. While nothing happens the epochs cost nothing, however many sellers there are.
func TestEpochsBeginAgainWithAnotherInstanceOfTheLedger(t *testing.T) {
	server := redistest.Start(t)
	at := time.Now()
	l, err := inredis.Open(inredis.Options{URL: server.URL(), Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	sellers := []string{"acme", "bolt"}
	asked := 0
	e := &epochs{ledger: l, sellers: func() []string { asked++; return sellers }}
	runs := 0
	neverSent := func() (certain []string) {
		t.Helper()
		at = at.Add(ledger.EpochMargin + time.Second)
		for _, name := range sellers {
			runs++
			r := ledger.ClaimRequest{
				Key: ledger.Key{Seller: name, Kind: "purchase", No: "P-" + string(rune('a'+runs))}, Hash: "h", Owner: "o", StreamTime: at, AuditedAt: at, First: true,
			}
			claimed, err := l.Claim(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if claimed.NeverSent {
				certain = append(certain, name)
			}
		}
		return certain
	}
	keep := func() {
		t.Helper()
		for range 3 {
			if err := e.keep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, what := range []struct {
		name    string
		happens func()
	}{
		{"at the start", func() {}}, {"after a restart", server.Restart}, {"after a loss of the data", server.Wipe},
	} {
		what.happens()
		keep()
		if got := neverSent(); !slices.Equal(got, sellers) {
			t.Errorf("%s: certainly new for %v, want %v", what.name, got, sellers)
		}
		if asked != i+1 {
			t.Errorf("%s: the epochs of all sellers were begun %d times, want %d", what.name, asked, i+1)
		}
	}
}
