package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// retiredConsumer is a durable consumer of an earlier build, on a stream that no longer receives its events.
type retiredConsumer struct{ stream, name string }

const (
	migrateBatch = 256
	// migrateWait is how long Apply waits for messages that a worker of the earlier build has in flight or released for
	// some seconds: a worker that died keeps them until AckWait ends.
	migrateWait = ackWait + settleLimit
)

// retiredChange is nil when the consumer is gone.
func (b *Bus) retiredChange(ctx context.Context, old retiredConsumer) (*Change, error) {
	info, err := b.consumerInfo(ctx, old)
	if err != nil || info == nil {
		return nil, err
	}
	return &Change{"consumer", old.stream + "/" + old.name, fmt.Sprintf(
		"of an earlier build: %d messages that wait for it move to RETRY, then it is removed", info.NumPending+uint64(max(0, info.NumAckPending)))}, nil //nolint:gosec // never negative
}

// consumerInfo is nil when the consumer is gone.
func (b *Bus) consumerInfo(ctx context.Context, old retiredConsumer) (info *jetstream.ConsumerInfo, err error) {
	err = withRetry(ctx, func(ctx context.Context) error {
		c, err := b.js.Consumer(ctx, old.stream, old.name)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read consumer %s/%s: %w", old.stream, old.name, err)
	}
	return info, nil
}

// migrate empties and removes the consumer. It can be interrupted and started again: a message is acked when its copy
// is stored, and a copy that is stored twice is recognised by its id or by the ledger.
func (b *Bus) migrate(ctx context.Context, old retiredConsumer) error {
	p, err := b.puller(old.stream, old.name, 2*migrateBatch+statusRoom)
	if err != nil {
		return err
	}
	defer p.sub.Unsubscribe() //nolint:errcheck // nothing is left to lose
	n, since, waits := 0, time.Now(), false
	for {
		got, err := b.migrateSome(ctx, p, old)
		if err != nil {
			return err
		}
		if n += got; got > 0 {
			since = time.Now()
			continue
		}
		info, err := b.consumerInfo(ctx, old)
		switch {
		case err != nil:
			return err
		case info == nil:
			return nil
		case info.NumPending == 0 && info.NumAckPending == 0:
			b.log.Info().Str("consumer", old.stream+"/"+old.name).Int("moved", n).Msg("moved the messages of an earlier build's consumer to RETRY")
			err := withRetry(ctx, func(ctx context.Context) error { return b.js.DeleteConsumer(ctx, old.stream, old.name) })
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				return nil
			}
			return err
		case time.Since(since) > migrateWait:
			return fmt.Errorf("workers of the earlier build have %d messages in flight: stop these and apply again", info.NumAckPending)
		}
		if !waits {
			waits = true
			b.log.Info().Str("consumer", old.stream+"/"+old.name).Int("in_hand", info.NumAckPending).Msg("waiting for the messages in flight at workers of an earlier build")
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return fmt.Errorf("workers of the earlier build have %d messages in flight: %w", info.NumAckPending, err)
		}
	}
}

// migrateSome moves what the consumer has now, at most migrateBatch.
func (b *Bus) migrateSome(ctx context.Context, p *puller, old retiredConsumer) (n int, err error) {
	inbox, err := p.request(pullRequest{Batch: migrateBatch, NoWait: true})
	if err != nil {
		return 0, err
	}
	limit := time.NewTimer(batchLimit)
	defer limit.Stop()
	var taken, copies []*nats.Msg
	for open := true; open && len(taken) < migrateBatch; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-limit.C:
			open = false // a message that still comes is redelivered after AckWait
		case m := <-p.in:
			if !isMessage(m) {
				open = m.Subject != inbox || m.Header.Get("Status") == statusHeartbeat
				continue
			}
			c, err := b.copyToRetry(m, old)
			if err != nil {
				return 0, err
			}
			taken, copies = append(taken, m), append(copies, c)
		}
	}
	if len(copies) == 0 {
		return 0, nil
	}
	if _, err := b.store(ctx, copies...); err != nil { // a duplicate was stored by an earlier try
		return 0, err
	}
	for _, m := range taken {
		if err := b.nc.Publish(m.Reply, []byte("+ACK")); err != nil {
			return 0, err
		}
	}
	return len(taken), nil
}

func (b *Bus) copyToRetry(m *nats.Msg, old retiredConsumer) (*nats.Msg, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	_, seller := event.Split(m.Subject)
	e := envelope{original: m.Header, from: origin{m.Subject, placeOf(meta), true}}
	c := e.message(event.RetrySubject(old.name, sellerToken(seller)), m.Data)
	c.Header.Set(jetstream.MsgIDHeader, e.token()+"#moved")
	return c, nil
}
