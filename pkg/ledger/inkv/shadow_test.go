package inkv

import (
	"testing"
	"time"

	"stockbridge/pkg/ledger"
)

// A document that somebody else sends is unknown for ever, and forgotten all the same; an unknown one of ours never
// is.
func TestAnUnknownIsSweptOnlyWhenItIsNotOurs(t *testing.T) {
	x := newIndex()
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i, origin := range []ledger.Origin{ledger.Ours, ledger.External} {
		k := ledger.Key{Seller: "acme", Kind: "order", No: "of " + string(origin)}
		r := &record{Entry: ledger.Entry{Key: k, State: ledger.Unknown, Hash: ledger.StoredHash(origin, "of a payload"), ChangedAt: at}}
		x.set(entryKey(k), r, uint64(i+1))
	}
	old := x.expired(at.Add(keepSettled))
	if len(old) != 1 || old[0].No != "of external" {
		t.Errorf("swept: %v", old)
	}
}

// A wish to cancel that waits for its document is forgotten like what is settled; the wish for a live document is not.
func TestAWishIsSweptWithItsDocument(t *testing.T) {
	x := newIndex()
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i, state := range []ledger.State{ledger.New, ledger.Unknown} {
		r := &record{Entry: ledger.Entry{State: state, Hash: "h"}}
		r.wantCancel(at, ledger.Key{Seller: "acme", Kind: "order", No: "of " + string(state)}, ledger.Cancel{RequestID: "R"})
		x.set(entryKey(r.Key), r, uint64(i+1))
	}
	if old := x.expired(at); len(old) != 0 {
		t.Errorf("swept too early: %v", old)
	}
	if old := x.expired(at.Add(time.Second)); len(old) != 1 || old[0].No != "of " {
		t.Errorf("swept: %v", old)
	}
}
