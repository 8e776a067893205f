package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// SetTick makes <kind>.due of seller come every so often (whole seconds, at least one). However long nobody takes them,
// at most one tick of a kind and seller waits. Setting the same again changes nothing, so anybody may re-assert it.
func (b *Bus) SetTick(ctx context.Context, kind, seller string, every time.Duration) error {
	if !event.ValidToken(kind) || !event.ValidSeller(seller) {
		return fmt.Errorf("set tick %q of %q: not a name", kind, seller)
	}
	subject := event.TickSubject(kind, seller)
	schedule := "@every " + max(every.Round(time.Second), time.Second).String()
	have, err := b.last(ctx, streamTicks, subject)
	if err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	// Publishing it again would start its clock anew: re-asserted often enough, it would never fire.
	if have != nil && have.Header.Get(jetstream.ScheduleHeader) == schedule {
		return nil
	}
	body, err := json.Marshal(map[string]string{"seller": seller})
	if err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(event.HeaderContentType, typeJSON)
	m.Header.Set(jetstream.ScheduleHeader, schedule)
	m.Header.Set(jetstream.ScheduleTargetHeader, event.DueSubject(kind, seller))
	m.Header.Set(jetstream.ScheduleRollupHeader, jetstream.MsgRollupSubject)
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	return nil
}
