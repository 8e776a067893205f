package token

import "time"

// StoreFor shortens how long a write is repeated.
func (s *Store) StoreFor(d time.Duration) { s.storeFor = d }

// Wake is how long the loop rests.
func (k *Keeper) Wake() time.Duration { return k.wake() }
