// Package bus moves events over NATS JetStream: it lays out streams, consumers and buckets, publishes, serves handlers,
// settles what they return, parks, shelves, replays and ticks. It knows events and faults. It knows no order, no
// warehouse and no ledger (whoever serves brings something that counts attempts); what failed work means is said with
// package fault and acted on in settle.go, and nowhere else.
//
// # What becomes of a message
//
//	read ── cannot be read, or invalid ─────────────────► dlq      (unserved tells)
//	  │ ─── its seller is paused ───────────────────────► held     (unserved tells)
//	  │ ─── ran too often without an end ───────────────► dlq      (unserved tells)
//	handler ─ events are stored ─ AfterStored ─┐
//	  nil ◄────────────────────────────────────┤                   ack
//	  transient: up to 10 s ───────────────────┤                   stays in the consumer, delayed
//	             longer ───────────────────────┤                   parked on RETRY
//	             the last attempt ─────────────┤────────► dlq      (unserved tells)
//	  wait: as transient, burns no attempt ────┤
//	  held ────────────────────────────────────┤────────► held
//	  permanent, unknown ──────────────────────┘────────► dlq
//
// A message is acked only when what it led to is stored: the events, the parked copy, the copy on the shelf. So all of
// it happens at least once, and a crash between any two steps repeats the message.
//
// # Why
//
// Public streams keep messages after the ack (limits retention): a work queue forgets the ids of acked messages at a
// restart and takes duplicates again. TICKS and RETRY are work queues all the same: nothing relies on their window for
// duplicates, and the one ack that settles a retry or a tick also removes it, so nothing piles up and there is no second
// call to forget. Schedules stay in them, because they stand on subjects that no consumer takes. Two consumers can never
// be given the same message.
//
// Messages are pulled by requests of our own, each for as many as there are idle slots, and not by the library's Consume.
// So none waits in the client, where its AckWait would run, and a busy worker asks once for several. Consume tells the server's
// statuses from messages by looking at headers, which a publisher writes: an event with an empty body and a header
// "Status: 409" would end it, and one with "Status: 100" would be swallowed, again at each delivery. Here a message is
// whatever carries a subject for its ack. After a reconnect Consume may also hold a second message behind a busy
// handler, and the AckWait of that message runs out unnoticed.
//
// An ack names a stream and a number, and nothing else. A worker that lives through a restore of JetStream would settle,
// for what it had in hand, whatever message has the number now. So after a reconnect the stream is asked whether it still
// has the message under its number, by the time of storing, before anything is said about it. (Left over: the instant
// between that question and the ack, and an ack that is written while the connection breaks.)
//
// Parked copies, attempts and shelves are named after the place where the original was stored and when, not after its
// ce-id: ids are the publisher's, and two messages that share one would replace each other.
//
// A message that was stored before this process began to serve is counted before it runs, like a redelivered one. In the
// embedded set-up a message that kills the worker kills the broker too, which then forgets that it delivered the message:
// without the count it would come as new, and kill, for ever.
//
// Events are stored with the field names of the .proto files (outbound_no), because reasons and documents use them;
// both spellings are read.
//
// There is no sweeper for MaxDeliver advisories: every consumer has MaxDeliver −1, which CheckTopology watches, so none
// is ever sent.
package bus
