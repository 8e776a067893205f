// Package follow follows accepted documents of any kind at their warehouses and publishes their progress.
//
// One run is one tick of one seller. Its workers take what is due from the ledger (ledger.TakeDue), as many documents as a call
// takes, look them up, and settle each call as soon as it is read: events are published, then the ledger moves. Where the
// warehouse finds documents by the ERP's numbers, only those that moved are read, one by one; elsewhere a call reads all that
// it was asked for. What follows from a reading is the kind's to say (package kind). It knows neither JetStream nor Redis nor an
// adapter.
//
// # Why
//
// The sender writes the ledger first and publishes afterwards: an unacked audit leads to publishing again. A tick
// carries no fact, so nothing would repeat a lost publish here: once the ledger has moved, no later tick finds the step
// again. So the events are stored first and the ledger moves after that. A crash in between publishes the same facts again
// under the same ids. So do two followers of one document; the slower one's write fails harmlessly with ledger.ErrVersion.
//
// A seller has no lease. What a run takes is due again after holdFor, so any number of replicas share a seller, nothing is
// looked up twice meanwhile, and what a crash leaves is looked up by the next run. In one process a seller has one run, however
// long its list: a slow warehouse occupies one slot, or two while a run's last calls end. After 5 s a run fires another tick
// of the seller, which waits for a process that has none, or for the end of the run. (Under a lease, with one call after the other, a seller had at most 1 ÷ JD's answer time calls a second, and 60 000 orders
// were looked up every 300 s instead of 30. Sellers in the same run of several processes were tried in thought only: splitting by
// hash needs to know who is alive; taking does not.)
//
// A run makes as many calls at a time as the quota lets go: it adds a worker with each call that finds more to do, up to
// callsAtOnce, until one has to wait for its turn. Another one that must wait ends; the last one ends the run, with that
// wait. (When each that had to wait ended and others were added a second later, 88 % of the quota were used.)
//
// List calls come first, and one reading of a document for each two list calls even when they never end: the list as a whole
// keeps its interval after a burst of accepted orders, each of which costs a reading. Of what moved and was not read in this run,
// the next run begins with as many as this one read; the rest is listed again at its interval. (All of it at once would list the
// same documents in each run, and where readings are slow no others.)
//
// A document without news costs no write: its due time moves in the ledger's index only, a call's worth at a time
// (ledger.Postpone). So the time of the entry's last write is that of its last reading (unread).
//
// The last call of a kind is filled up with documents that come next, so that documents that came due at different ticks share a
// call from then on: n documents take ⌈n/100⌉ calls an interval.
//
// A failure that lasts (a permission, a set-up) is not returned: nothing would hold a tick until its cause is gone. It is
// logged when it changes, and the documents are looked up again later. What needs a person (two documents under one number,
// a document that is given up, cancelled after it was shipped) is published as a change of status with a code of ours,
// counted, and returned once as a fault.Permanent, which the bus logs as an error. The ledger records that it was
// published.
//
// A warehouse that fails gets no further call in the run: one failure of many calls at a time counts once for the breaker.
//
// The kinds share a seller's quota and time. They take turns, a list call each, the one with the most overdue document first: a
// backlog of one does not delay another's. Of a kind's warehouses the one with the fewest calls under way is next, and none has
// more than three quarters of callsAtOnce: a slow one leaves workers to the others.
//
// How late a document is shows in its due time (Followed), except for what is taken: a process that dies again and again with
// documents in hand delays them by holdFor each time without showing as late.
package follow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// perTake is how many documents are taken from the ledger at a time.
	perTake = 100
	// admitFor is how long a run starts on further documents. Together with one more call (10 s) it must not exceed the
	// handler's limit (25 s).
	admitFor = 15 * time.Second
	// holdFor is how long what is taken is nobody else's. It must stay above the handler's limit (25 s) plus the writes after
	// it. What a killed run had in hand is looked up that much later.
	holdFor = ledger.ClaimFor
	// callsAtOnce is the most calls of a run at a time, three quarters of them to one warehouse. The quota decides how many
	// really go out.
	callsAtOnce = 32
	// askEvery is how often a run asks for what came due since it began.
	askEvery = time.Second
	// othersEvery is how often a run that has much to do calls other processes.
	othersEvery = 5 * time.Second
	// turnAtMost is the longest wait for a turn in the quota within a run.
	turnAtMost = 2 * time.Second
	// heldAtMost is how many documents of a kind wait for their list call in a run of a seller with several warehouses, and readingsAtMost how many that moved wait
	// for their reading. listsPerReading is how many list calls come before a reading that waits.
	heldAtMost, readingsAtMost, listsPerReading = 1000, 2000, 2
	// busyPause is how long a tick waits whose seller has a run in this process, and morePause before a run goes on that had no
	// more time.
	busyPause, morePause = 250 * time.Millisecond, 100 * time.Millisecond
	// failedPause is how soon documents of a warehouse that failed in a run are due again if they were not asked for.
	failedPause = 5 * time.Second
	// probeFor is the longest that one process probes a paused seller.
	probeFor = holdFor
	// batchRefusedFor is how long documents are fetched one by one after a warehouse refused the batch call.
	batchRefusedFor = time.Hour
	// writesAtOnce limits the concurrent writes to the ledger of one call's documents.
	writesAtOnce = 16
	// probeAtMost is the longest pause between two probes of a paused seller.
	probeAtMost = 5 * time.Minute
	// writeFor is the limit of publishing, and of writing, after the run's own time may be up.
	writeFor = 4 * time.Second
)

// Config says how often documents are looked up. The first three trade calls against freshness: n documents of a phase cost
// n/100 calls per interval where a call takes 100.
type Config struct {
	// OpenEvery, SoonEvery and LateEvery are the intervals of the look-ups of a document in kind.PhaseOpen, PhaseSoon and
	// PhaseLate.
	OpenEvery, SoonEvery, LateEvery time.Duration
	// FollowFor is how long a document is followed, from its first claim. Then it is given up, which is published and logged
	// as an error.
	FollowFor time.Duration
	// ProbeAfter is how long a seller rests that was paused by failures before it is probed. It doubles with each failed
	// probe, up to five minutes.
	ProbeAfter time.Duration
}

// Sellers is what a Follower needs of the sellers' set-up.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
	Resume(ctx context.Context, name string, by sellerv1.Paused_By) error
}

// Ledger is what a Follower needs of the ledger.
type Ledger interface {
	TakeDue(ctx context.Context, t ledger.Take) ([]ledger.Entry, error)
	Postpone(ctx context.Context, seller, kind string, until time.Time, later []ledger.Later) error
	Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error
	Get(ctx context.Context, k ledger.Key) (ledger.Entry, error)
	EndCancel(ctx context.Context, k ledger.Key, requestID string, state ledger.State) error
	CountFollowed(ctx context.Context, kind string, sellers ...string) ([]ledger.Count, error)
	ledger.Leases
}

// Parts is what a Follower is made of. All are required but Log, Tracer, Now and NewOwner.
type Parts struct {
	// Kinds are followed.
	Kinds   []Kind
	Sellers Sellers
	Ledger  Ledger
	// Open returns a seller's warehouse by the ERP's code, for calls of the class that change nothing: no kind's channel of
	// it is asked to.
	Open func(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	// Publish stores events, as bus.Bus.Publish does.
	Publish func(ctx context.Context, events ...event.Event) error
	// Again fires another tick of the seller, in place of one that waits.
	Again   func(ctx context.Context, seller string) error
	Breaker *guard.Breaker
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Tracer starts the spans of readings of one document, in the document's own trace; nil for none.
	Tracer oteltrace.Tracer
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of the lease of a probe, a random one when nil.
	NewOwner func() string
}

// Follower handles a seller's ticks.
type Follower struct {
	Parts

	callsAtOnce int

	mu sync.Mutex
	// running are the sellers' runs in this process that still start on documents.
	running map[string]*run
	// batchRefusedUntil is until when the documents of "seller/warehouse/kind" are fetched one by one.
	batchRefusedUntil map[string]time.Time
	// lastWarning is the text last logged for a seller.
	lastWarning map[string]string
}

// New makes a Follower.
func New(parts Parts) *Follower {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	return &Follower{
		Parts: parts, callsAtOnce: callsAtOnce, running: map[string]*run{}, batchRefusedUntil: map[string]time.Time{}, lastWarning: map[string]string{},
	}
}

// PollDue looks up one seller's due documents.
func (f *Follower) PollDue(ctx context.Context, _ *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	if err := f.Tick(ctx, m.GetSeller()); err != nil {
		return nil, fmt.Errorf("poll %s: %w", m.GetSeller(), err)
	}
	return nil, nil
}

// errBusy says that a run of the seller is under way in this process.
var errBusy = errors.New("a run is under way")

// Tick is one run for a seller. What it found is stored when it returns. A fault.Wait says when to go on.
func (f *Follower) Tick(ctx context.Context, name string) error {
	s, ok := f.Sellers.Get(name)
	if !ok || !f.mayLookUp(s) {
		return nil
	}
	r := &run{Follower: f, seller: s, began: f.Now()}
	r.calledAt = r.began
	if !r.begin() {
		return fault.RetryAfter(busyPause, errBusy)
	}
	defer r.end()
	if s.Pause != nil {
		return r.probe(ctx)
	}
	r.lookUpDue(ctx)
	return r.result()
}

// begin reports whether the seller has no other run here.
func (r *run) begin() bool {
	f, name := r.Follower, r.seller.Name()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[name] != nil {
		return false
	}
	f.running[name] = r
	return true
}

// end lets the seller have another run here.
func (r *run) end() {
	f, name := r.Follower, r.seller.Name()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[name] == r {
		delete(f.running, name)
	}
}

// mayLookUp is false while the seller is paused and its next probe is not due. Only an operator ends an operator's pause.
func (f *Follower) mayLookUp(s *seller.Seller) bool {
	return s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_OPERATOR && !f.Now().Before(s.Pause.ProbeAt)
}

// run is one tick of one seller.
type run struct {
	*Follower
	seller *seller.Seller
	began  time.Time

	// picking guards the fields of what is still to do: one worker at a time looks for it.
	picking sync.Mutex
	// queues are the kinds, readings the documents that moved.
	queues   []*queue
	readings []reading
	// listed and read count the list calls and the readings begun.
	listed, read int

	// mu guards the fields below.
	mu      sync.Mutex
	workers sync.WaitGroup
	working int
	// waiting: a worker waits for its turn.
	waiting bool
	// calledAt is when the run last called other processes, or began.
	calledAt time.Time
	// exceptions need a person, failures do not.
	exceptions, failures []error
	// standing are failures that last.
	standing []string
	// stop is why this run starts on no further documents: a fault.Wait of the warehouse, errTimeUp or errEnough.
	stop error
}

var (
	// errTimeUp ends a run that has more to do.
	errTimeUp = errors.New("time is up for this run")
	// errEnough ends a run whose seller was just paused, or whose ledger fails; the next tick continues.
	errEnough = errors.New("enough for this run")
)

// taken is a document that this run took, and until when.
type taken struct {
	ledger.Entry
	until time.Time
}

// move is the next state of one document's ledger entry.
type move struct {
	entry ledger.Entry
	state ledger.State
	next  ledger.Following
	// answered is the id of the wish to cancel that the events answer; "" for none.
	answered string
}

// done reports whether the run must not start on further documents.
func (r *run) done(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil && (ctx.Err() != nil || r.Now().Sub(r.began) >= admitFor) {
		r.stop = errTimeUp
		r.end() // another goes on, while the last calls of this one end
	}
	return r.stop != nil
}

// result is the error that the bus settles: first what needs a person, then a wait that the warehouse asked for, then
// failures. These are all transient here, because a run only reads from the warehouse.
func (r *run) result() error {
	r.logStanding()
	switch {
	case len(r.exceptions) > 0:
		return fault.Permanent(errors.Join(r.exceptions...))
	case fault.Of(r.stop) == fault.Wait:
		return r.stop
	case len(r.failures) > 0:
		return errors.New(errors.Join(r.failures...).Error()) // only the text: the bus would settle by the marks inside
	case errors.Is(r.stop, errTimeUp):
		return fault.RetryAfter(morePause, r.stop)
	}
	return nil
}

// fail notes a failure that is no person's.
func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, err)
}

// failForLong notes a failure that lasts, once.
func (r *run) failForLong(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.standing, text) {
		r.standing = append(r.standing, text)
	}
}

// stopWith makes the run start on no further documents.
func (r *run) stopWith(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil || errors.Is(why, errEnough) {
		r.stop = why
	}
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run) feedBreaker(err error) {
	if events, tripped := r.guard().Report(r.seller.Name(), err); tripped {
		r.stopWith(errEnough)
		r.publish(events)
	}
}

// publish stores events whose loss is harmless: the set-up says the same.
func (r *run) publish(events []event.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	if err := r.Publish(ctx, events...); err != nil {
		r.fail(err)
	}
}

func (r *run) guard() guard.Guard {
	return guard.Guard{Breaker: r.Breaker, Sellers: r.Sellers, ProbeAfter: r.ProbeAfter, Now: r.Now}
}

// nextDue is when to look up again a document in phase. A tenth of jitter spreads documents of one batch job that would
// otherwise come due together for ever.
func (f *Follower) nextDue(now time.Time, phase ledger.Phase) time.Time {
	pause := f.OpenEvery
	switch phase {
	case kind.PhaseNow:
		return now.Add(time.Millisecond) // by the next run, not by this one again
	case kind.PhaseSoon:
		pause = f.SoonEvery
	case kind.PhaseLate:
		pause = f.LateEvery
	}
	return now.Add(pause + time.Duration(rand.Int64N(int64(pause)/10+1)))
}
