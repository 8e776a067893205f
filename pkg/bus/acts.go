package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/event"
	opsv1 "stockbridge/proto/ops/v1"
)

// Act records what an operator is about to do, or did. The same part and stage of an act is stored once within the
// duplicate window (2 minutes).
func (b *Bus) Act(ctx context.Context, a *opsv1.Act) error {
	e := event.Acted.About(sellerToken(a.GetSeller()), a.GetId(), a.GetAt().AsTime(), a, fmt.Sprint(a.GetPart()), a.GetStage().String())
	if err := b.Publish(ctx, e); err != nil {
		return fmt.Errorf("record %s: %w", a.GetVerb(), err)
	}
	return nil
}

// Acts calls f for the acts of operators, oldest first, from since on (the zero time: from the beginning), until f
// returns an error, which is returned. With a seller it selects the acts about that seller and those about several
// sellers.
func (b *Bus) Acts(ctx context.Context, seller string, since time.Time, f func(seq uint64, a *opsv1.Act) error) error {
	filters := event.ActSubjects
	if seller != "" {
		filters = []string{event.Acted.Name + "." + event.NoSeller, event.Acted.Name + "." + seller}
	}
	return b.read(ctx, reading{stream: streamActs, filters: filters, since: since}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		a, err := Decode(event.Acted, Stored{Name: event.Acted.Name, Header: m.Header, Body: m.Data})
		if err != nil {
			return nil // only a later version of this program writes such an act
		}
		return f(meta.Sequence.Stream, a)
	})
}
