package bus

import "github.com/nats-io/nats.go/jetstream"

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
