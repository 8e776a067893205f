package ledger

import (
	"context"
	"time"
)

// LookAgain is how long a seller that has followed documents goes without being looked at, at most: DueSellers may know
// of a document that became due earlier than its seller's others only then.
const LookAgain = 30 * time.Second

// DueSellers is the part of the ledger that knows which sellers have something due, so that nobody has to ask for each.
//
// # Why
//
// Asking for each of 2 000 sellers every 5 s was most of what idle sellers cost. A list of the sellers that have
// something followed, in the order of when to look at them, costs nothing for the others.
//
// A seller's documents and that list cannot be written in one step where a store spreads sellers over servers. So the list
// is a hint: it is written beside each document, and RepairDueSellers finds what a crash in between left out. A list that
// names a seller too early costs one look, so it errs on that side.
type DueSellers interface {
	// DueSellers names up to limit sellers of which a document of the kinds is followed and due at now, the longest overdue
	// first, and whether there may be more. It names none of them again within again, LookAgain at most, except to another
	// process of a store without a list in common. A document that becomes due is found within LookAgain.
	DueSellers(ctx context.Context, kinds []string, now time.Time, again time.Duration, limit int) (names []string, more bool, err error)
	// RepairDueSellers lists the sellers again that have documents of the kinds followed and are not listed. Callers work
	// through all sellers again and again: within minutes a seller is listed whose hint was lost.
	RepairDueSellers(ctx context.Context, kinds, sellers []string) error
	// Instance names what remembers: the run of the store, and its data. It differs after a restart, a failover, a restored
	// copy or a loss of the data. Then no seller's epoch runs (BeginEpoch).
	Instance(ctx context.Context) (string, error)
}
