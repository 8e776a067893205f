package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
)

// Tick is one schedule of a seller.
type Tick struct {
	// Kind of <kind>.due.
	Kind  string
	Every time.Duration
	// Places have a tick each, with its body (SetTicks); nil for one tick of the seller (SetTick).
	Places map[string]proto.Message
}

// Schedule sets a tick of seller.
func (b *Bus) Schedule(ctx context.Context, seller string, t Tick) error {
	if t.Places != nil {
		return b.SetTicks(ctx, t.Kind, seller, t.Places, t.Every)
	}
	return b.SetTick(ctx, t.Kind, seller, t.Every)
}

// SetTick schedules <kind>.due of seller at an interval (whole seconds, at least one). However long nobody handles
// them, at most one tick of a kind and seller waits. Setting the same interval again changes nothing, so any process
// may re-assert it.
func (b *Bus) SetTick(ctx context.Context, kind, seller string, every time.Duration) error {
	if !event.ValidToken(kind) || !event.ValidSeller(seller) {
		return fmt.Errorf("set tick %q of %q: not a name", kind, seller)
	}
	body, err := json.Marshal(map[string]string{"seller": seller})
	if err != nil {
		return fmt.Errorf("set tick %s of %s: %w", kind, seller, err)
	}
	return b.setTick(ctx, event.TickSubject(kind, seller), event.DueSubject(kind, seller), body, every)
}

// Tick fires <kind>.due of seller now, in addition to its schedule. It does nothing if one waits already.
func (b *Bus) Tick(ctx context.Context, kind, seller string) error {
	if !event.ValidToken(kind) || !event.ValidSeller(seller) {
		return fmt.Errorf("tick %q of %q: not a name", kind, seller)
	}
	body, err := json.Marshal(map[string]string{"seller": seller})
	if err != nil {
		return fmt.Errorf("tick %s of %s: %w", kind, seller, err)
	}
	m := nats.NewMsg(event.DueSubject(kind, seller))
	m.Data = body
	m.Header.Set(event.HeaderContentType, typeJSON)
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("tick %s of %s: %w", kind, seller, err)
	}
	return nil
}

// SetTicks is SetTick for each of a seller's places (event.Place), with the body of its tick. Places of that kind and
// seller that are not listed no longer have a tick; one that has fired already may still come.
func (b *Bus) SetTicks(ctx context.Context, kind, seller string, places map[string]proto.Message, every time.Duration) error {
	if !event.ValidToken(kind) || !event.ValidSeller(seller) {
		return fmt.Errorf("set ticks %q of %q: not a name", kind, seller)
	}
	tick, due := event.TickSubject(kind, seller), event.DueSubject(kind, seller)
	wanted := map[string]bool{}
	for place, m := range places {
		if !event.ValidToken(place) {
			return fmt.Errorf("set ticks %s of %s: %q is not a place", kind, seller, place)
		}
		body, err := protojson.Marshal(m)
		if err != nil {
			return fmt.Errorf("set ticks %s of %s: %w", kind, seller, err)
		}
		wanted[event.At(tick, place)] = true
		if err := b.setTick(ctx, event.At(tick, place), event.At(due, place), body, every); err != nil {
			return err
		}
	}
	var gone []string
	err := b.eachSubject(ctx, streamTicks, event.At(tick, "*"), func(subject string, _ uint64) {
		if !wanted[subject] {
			gone = append(gone, subject)
		}
	})
	if err != nil {
		return fmt.Errorf("find ticks %s: %w", tick, err)
	}
	for _, subject := range gone {
		if err := b.purge(ctx, streamTicks, subject); err != nil {
			return fmt.Errorf("remove tick %s: %w", subject, err)
		}
	}
	return nil
}

func (b *Bus) setTick(ctx context.Context, subject, due string, body []byte, every time.Duration) error {
	schedule := "@every " + max(every.Round(time.Second), time.Second).String()
	have, err := b.lastMessage(ctx, streamTicks, subject)
	if err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	// Publishing it again would restart its clock: re-asserted often enough, it would never fire.
	if have != nil && have.Header.Get(jetstream.ScheduleHeader) == schedule {
		return nil
	}
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(event.HeaderContentType, typeJSON)
	m.Header.Set(jetstream.ScheduleHeader, schedule)
	m.Header.Set(jetstream.ScheduleTargetHeader, due)
	m.Header.Set(jetstream.ScheduleRollupHeader, jetstream.MsgRollupSubject)
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	return nil
}
