package token

import "time"

// StoreFor shortens how long a write is repeated.
func (s *Store) StoreFor(d time.Duration) { s.storeFor = d }
