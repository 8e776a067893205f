package bus

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// JS lets tests look at, and break, what stands behind the bus.
func (b *Bus) JS() jetstream.JetStream { return b.js }

// Sever ends the connection as a kill would: nothing is flushed, nothing given back.
func (b *Bus) Sever() { b.nc.Close() }

// RetryName is the name of a consumer's second one.
func RetryName(consumer string) string { return retryName(consumer) }

// NakLimit is the longest pause inside a consumer.
const NakLimit = nakLimit

// Origin is what a message's own subjects and counts are made from.
func (d *Delivery) Origin() string { return d.origin }

// Backlog asks as a scrape does, without resting first. Keys are the gauge's name and its labels.
func (m *Metrics) Backlog(ctx context.Context) (map[string]float64, error) {
	var mu sync.Mutex
	told := map[string]float64{}
	err := m.backlog.ask(ctx, func(gauge string, value float64, labels ...string) {
		mu.Lock()
		defer mu.Unlock()
		told[strings.Join(append([]string{gauge}, labels...), " ")] = value
	})
	return told, err
}

// OriginOf names an original by where and when it was stored.
func OriginOf(stream string, seq uint64, at time.Time) string { return originOf(stream, seq, at) }

// OriginTime reads what OriginOf wrote.
func OriginTime(origin string) (time.Time, bool) { return originTime(origin) }

// Refusal is a stream of which CheckWrites has noted that it stored nothing.
func (b *Bus) Refusal(stream string) bool {
	b.stored.mu.Lock()
	defer b.stored.mu.Unlock()
	return b.stored.refuses[stream] != nil
}

// Writes is what CheckWrites notes of publishes, in one life of a connection.
type Writes struct{ s stored }

// Note takes in a publish that began and ended then.
func (s *Writes) Note(life uint64, subject string, began, ended time.Time, err error) {
	s.s.note(life, subject, began, ended, err)
}

// Refused is what CheckWrites says of it.
func (s *Writes) Refused(life uint64, now time.Time) error { return s.s.refused(life, now) }

// ForgetProbe lets the next CheckWrites ask.
func (b *Bus) ForgetProbe() {
	b.stored.probing.Lock()
	defer b.stored.probing.Unlock()
	b.stored.asked = time.Time{}
}
