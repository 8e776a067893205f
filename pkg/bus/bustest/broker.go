package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// Broker inspects the server behind the bus, and makes waiting messages come early: what AckWait, a delayed redelivery
// or a delayed message would cause later happens at once.
type Broker struct {
	t  testing.TB
	nc *nats.Conn
	js jetstream.JetStream
	// services are those whose consumers count.
	services []string
}

// NewBroker connects to the server at url until the test ends. services are those that run: nobody serves the consumers
// of others, and their messages wait for good.
func NewBroker(t testing.TB, url string, services ...string) *Broker {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &Broker{t, nc, js, services}
}

func (b *Broker) runs(consumer string) bool {
	return slices.ContainsFunc(b.services, func(service string) bool {
		return consumer == service || strings.HasPrefix(consumer, service+"-")
	})
}

// consumedStreams have consumers of ours.
var consumedStreams = []string{"INTAKE", "ORDERS", "SELLERS", "TICKS", "RETRY"}

// Left reports whether a consumer has yet to be given some of its messages, and how many are given and not acked. A
// consumer learns of a new message after its publisher does, so what it was given is compared with the stream, not with
// what it says is pending.
func (b *Broker) Left(ctx context.Context) (waiting bool, unsettled int, err error) {
	for _, name := range consumedStreams {
		s, err := b.js.Stream(ctx, name)
		if err != nil {
			return false, 0, fmt.Errorf("read %s: %w", name, err)
		}
		list := s.ListConsumers(ctx)
		for c := range list.Info() {
			if !b.runs(c.Config.Durable) {
				continue // of a service that does not run, or a reader's
			}
			unsettled += c.NumAckPending
			for _, filter := range append(c.Config.FilterSubjects, c.Config.FilterSubject) {
				if filter == "" {
					continue
				}
				m, err := s.GetLastMsgForSubject(ctx, filter)
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					continue
				}
				if err != nil {
					return false, 0, fmt.Errorf("read %s: %w", filter, err)
				}
				waiting = waiting || m.Sequence > c.Delivered.Stream
			}
		}
		if err := list.Err(); err != nil {
			return false, 0, fmt.Errorf("list the consumers of %s: %w", name, err)
		}
	}
	return waiting, unsettled, nil
}

// Served waits until each consumer has an open pull request.
func (b *Broker) Served(ctx context.Context) error {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		idle := 0
		for _, name := range consumedStreams {
			s, err := b.js.Stream(ctx, name)
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			for c := range s.ListConsumers(ctx).Info() {
				if b.runs(c.Config.Durable) && c.NumWaiting == 0 {
					idle++
				}
			}
		}
		if idle == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// AckWait sets how long all consumers wait for an ack. With a day only ComeBack ends the wait.
func (b *Broker) AckWait(ctx context.Context, d time.Duration) error {
	for _, name := range consumedStreams {
		s, err := b.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for c := range s.ListConsumers(ctx).Info() {
			if c.Config.Durable == "" {
				continue
			}
			c.Config.AckWait = d
			if _, err := s.UpdateConsumer(ctx, c.Config); err != nil {
				return fmt.Errorf("change %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

// ComeBack redelivers the message with this ack subject (Passing.Reply) at once.
func (b *Broker) ComeBack(ack string) { b.settle(ack, "-NAK") }

// Ack acks the message with this ack subject, without its consumer's knowledge.
func (b *Broker) Ack(ack string) { b.settle(ack, "+ACK") }

func (b *Broker) settle(ack, word string) {
	b.t.Helper()
	if err := errors.Join(b.nc.Publish(ack, []byte(word)), b.nc.Flush()); err != nil {
		b.t.Error(err)
	}
}

// Delayed is a message that waits on RETRY.
type Delayed struct {
	At  time.Time
	seq uint64
	msg *nats.Msg
}

// Delayed lists the delayed messages.
func (b *Broker) Delayed(ctx context.Context) ([]Delayed, error) {
	s, err := b.js.Stream(ctx, "RETRY")
	if err != nil {
		return nil, fmt.Errorf("read RETRY: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(event.DelaySubject("*", ">")))
	if err != nil {
		return nil, fmt.Errorf("read RETRY: %w", err)
	}
	var list []Delayed
	for subject := range info.State.Subjects {
		raw, err := s.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
		at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(raw.Header.Get(jetstream.ScheduleHeader), "@at "))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
		list = append(list, Delayed{at, raw.Sequence, &nats.Msg{Subject: subject, Header: raw.Header, Data: raw.Data}})
	}
	return list, nil
}

// Fire delivers a delayed message now, as the server's schedule would: that one fires at most four times a second.
func (b *Broker) Fire(ctx context.Context, p Delayed) error {
	s, err := b.js.Stream(ctx, "RETRY")
	if err != nil {
		return fmt.Errorf("read RETRY: %w", err)
	}
	if err := s.DeleteMsg(ctx, p.seq); err != nil {
		return fmt.Errorf("fire %s: %w", p.msg.Subject, err)
	}
	p.msg.Subject = p.msg.Header.Get(jetstream.ScheduleTargetHeader)
	// The server has added a rollup to the schedule, and leaves it out of the message that fires: it would remove what
	// waits there.
	for _, name := range []string{jetstream.MsgIDHeader, jetstream.ScheduleHeader, jetstream.ScheduleTargetHeader, jetstream.MsgRollup} {
		p.msg.Header.Del(name)
	}
	if _, err := b.js.PublishMsg(ctx, p.msg); err != nil {
		return fmt.Errorf("fire %s: %w", p.msg.Subject, err)
	}
	return nil
}
