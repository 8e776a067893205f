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

// movedConsumer is a durable consumer of an earlier build on a stream to which its events do not come any more.
type movedConsumer struct{ stream, name string }

// moved are the consumers that Apply empties and removes. What waits for one goes to the consumer of the same name
// through RETRY, as a retry does: with the place where it was stored, so it is never taken for new.
var moved = []movedConsumer{
	{StreamOrders, "order-pusher"}, // audits stood in ORDERS
}

const (
	moveBatch = 256
	// moveWait is how long Apply waits for messages that are in hand of a worker of the earlier build, or that one gave back
	// for some seconds: a worker that died has them until AckWait ends.
	moveWait = ackWait + settleLimit
)

// lookAtMoved is nil when no such consumer is left.
func (b *Bus) lookAtMoved(ctx context.Context, old movedConsumer) (*Change, error) {
	info, err := b.infoOf(ctx, old)
	if err != nil || info == nil {
		return nil, err
	}
	return &Change{"consumer", old.stream + "/" + old.name, fmt.Sprintf(
		"of an earlier build: %d messages that wait for it move to RETRY, then it is removed", info.NumPending+uint64(max(0, info.NumAckPending)))}, nil //nolint:gosec // never negative
}

// infoOf is nil when the consumer is gone.
func (b *Bus) infoOf(ctx context.Context, old movedConsumer) (info *jetstream.ConsumerInfo, err error) {
	err = ask(ctx, func(ctx context.Context) error {
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
		return nil, fmt.Errorf("look at consumer %s/%s: %w", old.stream, old.name, err)
	}
	return info, nil
}

// move empties and removes the consumer. Broken off, it is simply begun again: a message is acked when its copy is stored,
// and a copy that is stored twice is recognised by its id, or by the ledger.
func (b *Bus) move(ctx context.Context, old movedConsumer) error {
	p, err := b.puller(old.stream, old.name, 2*moveBatch+statusRoom)
	if err != nil {
		return err
	}
	defer p.sub.Unsubscribe() //nolint:errcheck // nothing is left to lose
	n, since, waits := 0, time.Now(), false
	for {
		got, err := b.moveSome(ctx, p, old)
		if err != nil {
			return err
		}
		if n += got; got > 0 {
			since = time.Now()
			continue
		}
		info, err := b.infoOf(ctx, old)
		switch {
		case err != nil:
			return err
		case info == nil:
			return nil
		case info.NumPending == 0 && info.NumAckPending == 0:
			b.log.Info().Str("consumer", old.stream+"/"+old.name).Int("moved", n).Msg("what waited for a consumer of an earlier build waits on RETRY now")
			err := ask(ctx, func(ctx context.Context) error { return b.js.DeleteConsumer(ctx, old.stream, old.name) })
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				return nil
			}
			return err
		case time.Since(since) > moveWait:
			return fmt.Errorf("%d messages are in hand of workers of the earlier build: stop these and apply again", info.NumAckPending)
		}
		if !waits {
			waits = true
			b.log.Info().Str("consumer", old.stream+"/"+old.name).Int("in_hand", info.NumAckPending).Msg("waiting for what workers of an earlier build have in hand")
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return fmt.Errorf("%d messages are in hand of workers of the earlier build: %w", info.NumAckPending, err)
		}
	}
}

// moveSome moves what the consumer has at once, moveBatch at most.
func (b *Bus) moveSome(ctx context.Context, p *puller, old movedConsumer) (n int, err error) {
	inbox, err := p.ask(request{Batch: moveBatch, NoWait: true})
	if err != nil {
		return 0, err
	}
	limit := time.NewTimer(batchLimit)
	defer limit.Stop()
	var taken, copies []*nats.Msg
	for open := true; open && len(taken) < moveBatch; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-limit.C:
			open = false // what may still come is redelivered after AckWait
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
	if _, err := b.store(ctx, copies...); err != nil { // a duplicate was stored by a try before
		return 0, err
	}
	for _, m := range taken {
		if err := b.nc.Publish(m.Reply, []byte("+ACK")); err != nil {
			return 0, err
		}
	}
	return len(taken), nil
}

func (b *Bus) copyToRetry(m *nats.Msg, old movedConsumer) (*nats.Msg, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	_, seller := event.Split(m.Subject)
	d := &Delivery{Subject: m.Subject, Stream: meta.Stream, Seq: meta.Sequence.Stream, StreamTime: meta.Timestamp, Seller: seller}
	c := nats.NewMsg(event.RetrySubject(old.name, d.sellerToken()))
	c.Data, c.Header = m.Data, carry(m.Header)
	d.originHeaders(c.Header)
	c.Header.Set(jetstream.MsgIDHeader, originOf(d.Stream, d.Seq, d.StreamTime)+"#moved")
	return c, nil
}
