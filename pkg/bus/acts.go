package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/event"
	opsv1 "stockbridge/proto/ops/v1"
)

// Act tells what an operator is about to do, or did. The same part and stage of an act twice is stored once within the
// window for duplicates (2 minutes).
func (b *Bus) Act(ctx context.Context, a *opsv1.Act) error {
	seller := a.GetSeller()
	if !event.ValidSeller(seller) {
		seller = event.NoSeller
	}
	e := event.Acted.About(seller, a.GetId(), a.GetAt().AsTime(), a, fmt.Sprint(a.GetPart()), a.GetStage().String())
	if err := b.Publish(ctx, e); err != nil {
		return fmt.Errorf("record %s: %w", a.GetVerb(), err)
	}
	return nil
}

// Acts tells what operators did, oldest first, from since on (the zero time: from the beginning), until f returns an
// error, which is returned. Of a seller it tells what is about that seller and what is about several.
func (b *Bus) Acts(ctx context.Context, seller string, since time.Time, f func(seq uint64, a *opsv1.Act) error) error {
	filters := event.ActSubjects
	if seller != "" {
		filters = []string{event.Acted.Name + "." + event.NoSeller, event.Acted.Name + "." + seller}
	}
	return b.read(ctx, reading{stream: streamActs, filters: filters, since: since}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		a, err := Decode(event.Acted, Stored{Name: event.Acted.Name, Header: m.Header, Body: m.Data})
		if err != nil {
			return nil // nobody else writes there: it is a later version's
		}
		return f(meta.Sequence.Stream, a)
	})
}
