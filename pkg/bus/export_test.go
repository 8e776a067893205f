package bus

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// JS lets tests inspect, and break, what is behind the bus.
func (b *Bus) JS() jetstream.JetStream { return b.js }

// Sever ends the connection as a kill would: nothing is flushed, nothing released.
func (b *Bus) Sever() { b.nc.Close() }

// RetryName is the name of a consumer's counterpart on RETRY.
func RetryName(consumer string) string { return retryName(consumer) }

// NakLimit is the longest pause inside a consumer.
const NakLimit = nakLimit

// Origin is what a message's own subjects and counts are named after.
func (d *Delivery) Origin() string { return d.origin }

// Backlog collects as a scrape does, without resting first. Keys are the gauge's name and its labels.
func (m *Metrics) Backlog(ctx context.Context) (map[string]float64, error) {
	var mu sync.Mutex
	values := map[string]float64{}
	err := m.backlog.observe(ctx, func(gauge string, value float64, labels ...string) {
		mu.Lock()
		defer mu.Unlock()
		values[strings.Join(append([]string{gauge}, labels...), " ")] = value
	})
	return values, err
}

// OriginOf is a place's token.
func OriginOf(stream string, seq uint64, at time.Time) string { return Place{stream, seq, at}.token() }

// OriginTime is the time that a token names.
func OriginTime(origin string) (time.Time, bool) {
	_, at := readToken(origin)
	return at, !at.IsZero()
}

// Refusal reports whether CheckWrites has noted that a stream stored nothing.
func (b *Bus) Refusal(stream string) bool {
	b.writes.mu.Lock()
	defer b.writes.mu.Unlock()
	return b.writes.refuses[stream] != nil
}

// Writes is what CheckWrites knows of publishes, in one connection epoch.
type Writes struct{ s writeHealth }

// Note records a publish.
func (s *Writes) Note(epoch uint64, subject string, began, ended time.Time, err error) {
	s.s.note(epoch, subject, began, ended, err)
}

// Refused is CheckWrites' verdict.
func (s *Writes) Refused(epoch uint64, now time.Time) error { return s.s.refused(epoch, now) }

// ForgetProbe makes the next CheckWrites ask.
func (b *Bus) ForgetProbe() {
	b.writes.probing.Lock()
	defer b.writes.probing.Unlock()
	b.writes.probedAt = time.Time{}
}

// FastLanes makes a lane's life short.
func (s Serving) FastLanes() Serving {
	s.laneTimes = laneTimes{
		look: 20 * time.Millisecond, lookIdle: 20 * time.Millisecond, trust: 200 * time.Millisecond,
		idle: 50 * time.Millisecond, closing: 400 * time.Millisecond,
	}
	return s
}

// LanesStay keeps open lanes open.
func (s Serving) LanesStay() Serving {
	s.laneTimes.idle = time.Hour
	return s
}

// LaneNames are the names that a consumer's lanes may have.
func LaneNames(consumer string) []string { return laneNames(consumer) }

// LanesLeft is how many messages the lanes of a consumer have not settled.
func (b *Bus) LanesLeft(ctx context.Context, row Consumer) (n uint64, err error) {
	all, err := b.lanesOf(ctx, row)
	for _, of := range all {
		n += of.info.NumPending + uint64(of.info.NumAckPending) //nolint:gosec // never negative
	}
	return n, err
}

// Lanes are the subjects of a consumer's lanes.
func (b *Bus) Lanes(ctx context.Context, row Consumer) (subjects []string, err error) {
	all, err := b.lanesOf(ctx, row)
	for _, of := range all {
		subjects = append(subjects, of.subject)
	}
	return subjects, err
}
