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
	for i, hash := range []string{"of a payload", ledger.Shadowed} {
		k := ledger.Key{Seller: "acme", Kind: "order", No: hash}
		r := &record{Entry: ledger.Entry{Key: k, State: ledger.Unknown, Hash: hash, ChangedAt: at}}
		x.set(entryKey(k), r, uint64(i+1))
	}
	old := x.expired(at.Add(keepSettled))
	if len(old) != 1 || old[0].No != ledger.Shadowed {
		t.Errorf("swept: %v", old)
	}
}
