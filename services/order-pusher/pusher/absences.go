package pusher

import (
	"sync"
	"time"

	"stockbridge/pkg/ledger"
)

// mostAbsences bounds what is kept. Losing it only means asking again.
const mostAbsences = 100_000

// absences remembers which orders the warehouse certainly did not have, and that were not sent after all. It holds only
// while the ledger's birth is the same and the ledger has no outcome for the order: then nobody sent it since.
type absences struct {
	mu sync.Mutex
	of map[ledger.Key]time.Time
}

// keep notes that the order was absent for a ledger born at that time.
func (a *absences) keep(k ledger.Key, born time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil || len(a.of) >= mostAbsences {
		a.of = map[ledger.Key]time.Time{}
	}
	a.of[k] = born
}

// take tells whether it was, and forgets it.
func (a *absences) take(k ledger.Key, born time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, ok := a.of[k]
	delete(a.of, k)
	return ok && was.Equal(born)
}
