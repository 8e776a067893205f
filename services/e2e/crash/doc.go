// Package crash stops a worker at every step it takes, starts another on the same servers, and holds what comes of it
// against the promises: one document at the warehouse and one outcome per order (P1), within its time (P2), nothing lost,
// left locked or left lying (P6). All of it is tests, on both ledgers: `go test ./e2e/crash`, `make crash`.
//
// The steps are found, not listed: a scenario is run undisturbed, and whatever the worker does to the world on the way is
// written down. Then it is run again for each step and occurrence, with a crash there; a step that is new in the code is
// tried without anybody naming it here. It knows no handler and no step of theirs by name.
//
// # Why
//
// Nothing in production is there for this. A worker is what it does: to the broker, to the ledger, to the warehouse. Its
// connection to the broker runs over a cable that reads the protocol (bustest.Cable), so storing an event, parking,
// shelving, acking, and each write of the ledger in a bucket are steps without a hook in the bus. The other ledger and the
// warehouse stand behind wrappers of their contracts.
//
// A crash is that all of these end at the same moment. A process that was killed differs from one that goes on computing
// behind dead connections in nothing that anybody could see; what has no effect need not be stopped. Its goroutines are
// then ended in the background, while its successor works.
//
// Time does not pass by itself. The broker's waits (AckWait, delayed redeliveries, parked messages), the ticks, and the
// ledger's and the workers' clock are one order of events: when nothing is in hand, the clock is moved to the next of them
// and that one happens. So the waits are those of production, in their order, and hours take milliseconds.
package crash
