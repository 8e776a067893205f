// Package crash stops a worker at every step it takes, starts another on the same servers, and checks the result
// against the promises: one document at the warehouse and one outcome per order (P1), within its time (P2), nothing
// lost, locked or left over (P6). All of it is tests, on both ledgers: `go test ./e2e/crash`, `make crash`.
//
// The steps are found, not listed: a scenario runs undisturbed, and every effect of the worker on the way is recorded.
// Then it runs again for each step and occurrence, with a crash there; a step that is new in the code is tried without
// being named here. The package knows no handler and no step by name.
//
// # Why
//
// Nothing in production is there for this. A worker is its effects: on the broker, on the ledger, on the warehouse. Its
// connection to the broker runs over a cable that reads the protocol (faultproxy.Cable), so storing an event, delaying,
// dead-lettering, acking, and each write of the ledger in a bucket are steps without a hook in the bus. The other
// ledger and the warehouse are wrapped by implementations of their contracts.
//
// A crash means that all of these end at the same moment. A process that was killed cannot be distinguished from one
// that computes on behind dead connections; what has no effect need not be stopped. Its goroutines are then ended in
// the background, while its successor works.
//
// Time does not pass on its own. The broker's waits (AckWait, delayed redeliveries, delayed messages), the ticks, and
// the ledger's and the workers' clock are one sequence of events: when nothing is in hand, the clock jumps to the next
// of them and that one happens. So the waits are those of production, in their order, and hours take milliseconds.
package crash
