// Package bus moves events over NATS JetStream: it lays out the streams, publishes, serves handlers, settles what they
// return, parks, shelves and replays. It knows events and faults; it knows no order and no warehouse.
package bus
