package token

import "time"

// StoreFor shortens how long a write is repeated.
func (s *Store) StoreFor(d time.Duration) { s.storeTimeout = d }

// Wake is how long the loop sleeps.
func (k *Keeper) Wake() time.Duration { return k.wake() }
