package push

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/ledger"
)

// epochsAtOnce is how many epochs are begun at a time: the ledger carries calls that are made together in one round trip.
const epochsAtOnce = 128

// epochs begins the epochs of all sellers, and again when the ledger is another instance. Else a seller's first document
// since the ledger's start would be older than the ledger remembers: where the warehouse cannot be asked, a person would
// have to look for it. While nothing happens it costs one question.
type epochs struct {
	ledger interface {
		ledger.Documents
		ledger.DueSellers
	}
	// sellers are the names of all.
	sellers func() []string

	mu       sync.Mutex
	instance string // for which all sellers' were begun
}

// keep begins what is missing. Those of sellers that are set up later begin with guard.Releases.Before.
func (e *epochs) keep(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	instance, err := e.ledger.Instance(ctx)
	if err != nil || instance == e.instance {
		return err
	}
	var g errgroup.Group
	g.SetLimit(epochsAtOnce)
	for _, name := range e.sellers() {
		g.Go(func() error { return e.ledger.BeginEpoch(ctx, name) })
	}
	if err := g.Wait(); err != nil {
		return errors.Join(err, ctx.Err())
	}
	e.instance = instance
	return nil
}
