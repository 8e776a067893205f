package push

import (
	"sync"
	"time"

	"stockbridge/pkg/ledger"
)

// maxNotFound bounds the cache. Dropping an entry only costs another look-up.
const maxNotFound = 100_000

// notFoundCache remembers documents that the warehouse certainly did not have and that were not sent after that. An entry
// holds only while the ledger's epoch is the same and the ledger has no outcome for the document: then nobody sent it since.
type notFoundCache struct {
	mu     sync.Mutex
	epochs map[ledger.Key]time.Time
}

// put notes that the document was not found, in the ledger's epoch that began at epoch.
func (a *notFoundCache) put(k ledger.Key, epoch time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epochs == nil || len(a.epochs) >= maxNotFound {
		a.epochs = map[ledger.Key]time.Time{}
	}
	a.epochs[k] = epoch
}

// take reports whether the document was noted in that epoch, and removes it.
func (a *notFoundCache) take(k ledger.Key, epoch time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.epochs[k]
	delete(a.epochs, k)
	return ok && at.Equal(epoch)
}
