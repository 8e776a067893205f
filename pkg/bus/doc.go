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
// # Streams and consumers
//
// Public streams keep messages after the ack (limits retention): a work queue forgets the ids of acked messages at a
// restart and accepts duplicates again. TICKS and RETRY are work queues all the same: nothing relies on their duplicate
// window, and the one ack that settles a retry or a tick also removes it, so nothing piles up and no second call can be
// forgotten. Schedules stay in them, because no consumer covers their subjects. No two consumers can receive the same
// message.
//
// # Fairness between sellers
//
// A consumer delivers in the order of storing, so a seller's flood would delay everybody behind it. What ERPs publish is
// therefore dispatched by the seller in the subject, before anything else is read:
//
//   - A seller has seats: three quarters of the slots of each worker (SeatsOf), all of them when it is alone. A message
//     without a seat is released at once, to return when one is likely to be free. Retries and replays take a free seat, or
//     one of some that only they may take, so that a backlog does not keep them out.
//   - When more of a seller's messages wait than a burst (twice the slots), any worker opens a lane: a second durable
//     consumer, of this seller's subject, from the first message that waits. The main consumer's copies are then passed
//     over: acked unread, in requests for many, so that those of other sellers behind them are soon reached. The backlog stays
//     in the stream, as many messages in hand as there are seats, and every replica pulls from it.
//   - While all messages of a seller wait for the same (fault.Throttle, its quota), no more of them are fetched.
//   - Messages without a seller in the subject count as one seller's, and their reader takes a seat of the seller inside too.
//   - With lanesPerConsumer in use, messages beyond a burst are delayed on RETRY, as are those of more sellers than may wait
//     in the consumer.
//
// No message depends on one worker's memory. A message is passed over only when a list of lanes, read within trust over the
// same connection, has an open lane that delivers it. A lane that was empty for a while is closing, for good: what comes
// then is handled by the main consumer (and once more by the lane). It is deleted when each list that called it open is too old
// to be used, and when the stream's leader says that it has no message that the lane has not settled. A lane that somebody
// deletes by hand may lose the messages of the last seconds to nobody but the reconciler, which redelivers an audit without
// an outcome.
//
// A message in hand of the main consumer when its lane is opened may be delivered by both: the ledger knows it. A lane's
// first delivery counts as Delivery.First only beyond what the main consumer had delivered when the lane was opened. Those
// before are Delivery.InLane: most of them were only released.
//
// What was measured of this and other designs (one consumer with delays, a consumer for each seller, hashed lanes, filters
// by list, direct gets) stands in docs/performance.md, Dispatch.
//
// # Why
//
// Messages are pulled by our own requests, each for as many as there are free slots, and not by the library's Consume. While
// handlers are fast, as many more are fetched ahead: they have heartbeats, so their AckWait does not run out, and one
// request gets many. Consume separates the
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
