//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
)

// appliedAtOnce is how many sellers are set up at the same time.
const appliedAtOnce = 64

// setUpMany sets sellers from..to-1 up, named m00000 and so on, with what `bridgectl seller apply` runs for one, and without
// a process for each. Each has an application of its own and five calls a second.
func (s *stand) setUpMany(ctx context.Context, from, to int) error {
	if from >= to {
		return nil
	}
	s.bench.say(fmt.Sprintf("setting %d sellers up", to-from))
	model, err := stack.DemoSetup(s.Dir(), s.jdURL())
	if err != nil {
		return err
	}
	b, err := bus.Connect(ctx, bus.Options{URL: s.NATS.URL(), Name: "bench", Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer b.Close()
	bucket, err := b.Bucket(ctx, bus.BucketSetup)
	if err != nil {
		return err
	}
	registry, err := seller.Open(ctx, bucket, zerolog.Nop())
	if err != nil {
		return err
	}
	defer registry.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(appliedAtOnce)
	for i := from; i < to; i++ {
		setup := proto.CloneOf(model)
		setup.Name = manyName(i)
		setup.Title = setup.Name
		account := setup.Accounts[0]
		account.VendorSource, account.AppKey = "ISV-"+setup.Name, "app-"+setup.Name
		account.Quota = &sellerv1.Quota{PerSecond: 5, Concurrent: 5}
		group.Go(func() error {
			version, err := registry.Put(ctx, setup, 0)
			if err != nil {
				return err
			}
			return stack.Follow(ctx, b, setup, version, nil)
		})
	}
	return group.Wait()
}

func manyName(i int) string { return fmt.Sprintf("m%05d", i) }

// quietAfter is how long nothing may wait until a stand counts as settled.
const quietAfter = 3 * time.Second

// settle waits until nothing waits for any consumer, idleSettles at most: what is measured then includes the rest.
func (s *stand) settle(ctx context.Context) error {
	until := time.Now().Add(idleSettles)
	for since := time.Now(); time.Now().Before(until) && time.Since(since) < quietAfter; {
		w, err := s.NATS.Waiting(ctx)
		if err != nil {
			return err
		}
		for _, n := range w.Unsettled {
			// A handful are ticks that just fired.
			if n > 5 {
				since = time.Now()
			}
		}
		if err := rest(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
