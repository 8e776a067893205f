// Package wiring puts every adapter together: which ledger, which warehouse.
//
// A new warehouse is its own folder, a case in warehouse/kinds (what its settings need) and a row in adapters (how it is opened),
// in a file of its own, which alone imports it. The package knows how each adapter is put together and nothing of what
// it does.
package wiring

import (
	"context"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
)

// Ledger opens the ledger: in Redis when redisURL is given ("redis://:password@host:6379/0"), else in buckets of the
// bus. Its Check reports whether it is fit for use.
func Ledger(ctx context.Context, redisURL string, b *bus.Bus) (ledger.Ledger, error) {
	if redisURL != "" {
		return inredis.Open(inredis.Options{URL: redisURL})
	}
	bucket, err := b.Bucket(ctx, bus.BucketLedger)
	if err != nil {
		return nil, err
	}
	books, err := b.Bucket(ctx, bus.BucketBooks)
	if err != nil {
		return nil, err
	}
	if err := b.Clock().Measure(ctx); err != nil { // the ledger uses the broker's clock from the start
		return nil, err
	}
	return inkv.Open(ctx, inkv.Options{Bucket: bucket, Books: books, Identity: b.ServerID, Now: b.Now})
}
