// Package bus moves events over NATS JetStream: it lays out streams, consumers and buckets, publishes, serves handlers,
// settles what they return, delays retries, keeps dead letters, replays them and sends ticks. It knows events and faults.
// It knows no order, no warehouse and no ledger (the caller of Serve brings something that counts attempts); package fault
// says what failed work means, and settle.go acts on it, nothing else does.
//
// # What becomes of a message
//
//	read ── cannot be read, or invalid ─────────────────► dlq      (onReject; beyond the first of a seller in a group)
//	  │ ─── its seller is paused ───────────────────────► held     (onReject)
//	  │ ─── ran too often without an end ───────────────► dlq      (onReject)
//	handler ─ events are stored ─ AfterStored ─┐
//	  nil ◄────────────────────────────────────┤                   ack
//	  transient: up to 10 s ───────────────────┤                   nak with a delay
//	             longer ───────────────────────┤                   delayed on RETRY
//	             the last attempt ─────────────┤────────► dlq      (onReject)
//	  wait: as transient, burns no attempt ────┤
//	  held ────────────────────────────────────┤────────► held
//	  permanent, unknown ──────────────────────┘────────► dlq
//
// A message is acked only when its result is stored: the events, the delayed copy, the dead letter. So all of this happens
// at least once, and a crash between any two steps repeats the message.
//
// # Why
//
// Public streams keep messages after the ack (limits retention): a work queue forgets the ids of acked messages at a
// restart and accepts duplicates again. TICKS and RETRY are work queues all the same: nothing relies on their duplicate
// window, and the one ack that settles a retry or a tick also removes it, so nothing piles up and no second call can be
// forgotten. Schedules stay in them, because no consumer covers their subjects. No two consumers can receive the same
// message.
//
// Messages are pulled by our own requests, each for as many as there are free slots, and not by the library's Consume. So
// none waits in the client, where its AckWait would run, and a busy worker requests several at once. Consume separates the
// server's statuses from messages by their headers, which a publisher controls: an event with an empty body and a header
// "Status: 409" would end it, and one with "Status: 100" would be swallowed, at each delivery. Here a message is whatever
// has an ack subject. After a reconnect Consume may also hold a second message behind a busy handler, whose AckWait runs
// out unnoticed.
//
// An ack names a stream and a sequence, and nothing else. A worker that survives a restore of JetStream would settle, for
// each message in flight, whatever message has its sequence now. So after a reconnect the worker first asks whether the
// stream still has the message under its sequence, by the time of storing. (Left over: the instant between that question
// and the ack, and an ack that is written while the connection breaks.)
//
// Delayed copies, attempts and dead letters are named after where and when the original was stored, not after its ce-id:
// publishers choose ids, and two messages that share one would replace each other.
//
// A service has one schedule of a kind, and not one for each seller (Service.Ticks): for 2 000 sellers that did nothing those
// were 534 messages a second. Its handler finds the sellers with something to do and fires theirs, under subjects of their own,
// so that the replicas share the work and at most one tick of a seller waits. Sellers keep schedules for what has to be done at
// an interval whether anything happened or not: reading a flow, counting a warehouse, reconciling.
//
// A message that was stored before this process began to serve is counted before it runs, like a redelivered one. In the
// embedded set-up a message that kills the worker kills the broker too, which then forgets that it delivered the message:
// without the count it would come as new, and kill, for ever.
//
// Events are stored with the field names of the .proto files (outbound_no), because reasons and documents use them;
// both spellings are accepted.
//
// The topology, the workers' side and the operators' side are one package, because all three use the table of streams, the
// envelope and the requests to the server (store, read, withRetry). Packages of their own would export these just for each
// other.
//
// Nothing listens to MaxDeliver advisories: every consumer has MaxDeliver −1, which CheckTopology verifies, so none is
// ever sent.
package bus
