package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
)

// Tick is a schedule, of a seller or of a service (Service.Ticks).
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
// may re-assert it. The tick of event.NoSeller is the service's.
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

// Tick fires <kind>.due of seller now, in addition to its schedule. One that waits already is replaced.
func (b *Bus) Tick(ctx context.Context, kind, seller string) error {
	m, err := tickMessage(kind, seller)
	if err != nil {
		return err
	}
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("tick %s of %s: %w", kind, seller, err)
	}
	return nil
}

// tickPage is how many ticks TickEach has under way at a time.
const tickPage = 256

// TickEach fires <kind>.due of each of the sellers of which none waits or is being handled: a tick that waits keeps its
// place. It goes on past what could not be stored, and returns the first error.
func (b *Bus) TickEach(ctx context.Context, kind string, sellers []string) (err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	for page := range slices.Chunk(sellers, tickPage) {
		msgs, open := make([]*nats.Msg, len(page)), make([]int, len(page))
		for i, seller := range page {
			m, err := tickMessage(kind, seller)
			if err != nil {
				return err
			}
			m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
			msgs[i], open[i] = m, i
		}
		for i, failed := range b.storeOnce(ctx, msgs, open, make([]*jetstream.PubAck, len(page))) {
			if err == nil && !wrongLast(failed) {
				err = fmt.Errorf("tick %s of %s: %w", kind, page[i], failed)
			}
		}
	}
	return err
}

func tickMessage(kind, seller string) (*nats.Msg, error) {
	if !event.ValidToken(kind) || !event.ValidSeller(seller) {
		return nil, fmt.Errorf("tick %q of %q: not a name", kind, seller)
	}
	body, err := json.Marshal(map[string]string{"seller": seller})
	if err != nil {
		return nil, fmt.Errorf("tick %s of %s: %w", kind, seller, err)
	}
	m := nats.NewMsg(event.DueSubject(kind, seller))
	m.Data = body
	m.Header.Set(event.HeaderContentType, typeJSON)
	return m, nil
}

// tickChange compares a service's tick with the one that stands, and with chosen its interval too, which is the operator's.
// Schedules of single sellers of the kind are from earlier builds: with chosen, they are a change as well. nil for none.
func (b *Bus) tickChange(ctx context.Context, t Tick, chosen bool) (*Change, func(context.Context) error, error) {
	subject := event.TickSubject(t.Kind, event.NoSeller)
	have, err := b.lastMessage(ctx, streamTicks, subject)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil, err
	}
	var what []string
	if have == nil {
		what = append(what, "missing")
	}
	single := 0
	if chosen && err == nil {
		if have != nil && have.Header.Get(jetstream.ScheduleHeader) != schedule(t.Every) {
			what = append(what, fmt.Sprintf("is %q, should be %q", have.Header.Get(jetstream.ScheduleHeader), schedule(t.Every)))
		}
		err := b.eachSubject(ctx, streamTicks, event.TickSubject(t.Kind, "*"), func(s string, _ uint64) {
			if s != subject {
				single++
			}
		})
		if err != nil {
			return nil, nil, err
		}
		if single > 0 {
			what = append(what, fmt.Sprintf("%d of single sellers, should be none", single))
		}
	}
	if len(what) == 0 {
		return nil, nil, nil
	}
	return &Change{"tick", t.Kind, strings.Join(what, ", ")}, func(ctx context.Context) error {
		if single > 0 {
			if err := b.purge(ctx, streamTicks, event.TickSubject(t.Kind, "*")); err != nil {
				return fmt.Errorf("remove ticks %s of sellers: %w", t.Kind, err)
			}
		}
		return b.SetTick(ctx, t.Kind, event.NoSeller, t.Every)
	}, nil
}

// schedule is an interval as the server wants it: whole seconds, at least one.
func schedule(every time.Duration) string {
	return "@every " + max(every.Round(time.Second), time.Second).String()
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
	have, err := b.lastMessage(ctx, streamTicks, subject)
	if err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	// Publishing it again would restart its clock: re-asserted often enough, it would never fire.
	if have != nil && have.Header.Get(jetstream.ScheduleHeader) == schedule(every) {
		return nil
	}
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(event.HeaderContentType, typeJSON)
	m.Header.Set(jetstream.ScheduleHeader, schedule(every))
	m.Header.Set(jetstream.ScheduleTargetHeader, due)
	m.Header.Set(jetstream.ScheduleRollupHeader, jetstream.MsgRollupSubject)
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("set tick %s: %w", subject, err)
	}
	return nil
}
