// Package follow follows accepted documents of any kind at their warehouses and publishes their progress.
//
// One run is one tick of one seller. It looks up the due documents, as many per call as the warehouse takes. Where the
// warehouse finds documents by the ERP's numbers, it reads only those that moved; elsewhere it reads all that are due. What
// follows from a reading is the kind's to say (package kind). It knows neither JetStream nor Redis nor an adapter; the bus
// publishes the events that it returns.
//
// # Why
//
// The sender writes the ledger first and publishes afterwards: an unacked audit leads to publishing again. A tick
// carries no fact, so nothing would repeat a lost publish here: once the ledger has moved, no later tick finds the step
// again. So the events are stored first and the ledger moves after that (bus.Delivery.AfterStored). A crash in between
// publishes the same facts again under the same ids. So do two followers of one document; the slower one's write fails
// harmlessly with ledger.ErrVersion.
//
// A failure that lasts (a permission, a set-up) is not returned: nothing would hold a tick until its cause is gone. It is
// logged when it changes, and the documents are looked up again later. What needs a person (two documents under one number,
// a document that is given up, cancelled after it was shipped) is published as a change of status with a code of ours,
// counted, and returned once as a fault.Permanent, which the bus logs as an error. The ledger records that it was
// published.
//
// The kinds share a seller's lease, quota and time. In each run they take turns, the one with the most overdue document
// first, and each gets at least an equal share of the run's documents: a backlog of one does not delay another's.
package follow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	// perRun is the most documents of one run: its events and ledger writes must fit into the handler's limit.
	perRun = 1000
	// singlesPerRun is the same for a kind at a warehouse where each document costs a call.
	singlesPerRun = 100
	// admitFor is how long a run starts on further documents. Together with one more call (10 s) it must not exceed the
	// handler's limit (25 s).
	admitFor = 15 * time.Second
	// leaseFor must stay above the handler's limit (25 s) plus the writes after it. A killed run blocks its seller for that
	// long.
	leaseFor = ledger.ClaimFor
	// batchRefusedFor is how long documents are fetched one by one after a warehouse refused the batch call.
	batchRefusedFor = time.Hour
	// detailsAtOnce and writesAtOnce limit the concurrent calls for details and writes to the ledger. The quota decides how
	// many of the calls really go out.
	detailsAtOnce = 4
	writesAtOnce  = 16
	// probeAtMost is the longest pause between two probes of a paused seller.
	probeAtMost = 5 * time.Minute
	// writeFor is the limit of one write after the run's own time may be up.
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
	Due(ctx context.Context, seller, kind string, now time.Time, limit int) ([]ledger.Entry, error)
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
	Open    func(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	Breaker *guard.Breaker
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Tracer starts the spans of readings of one document, in the document's own trace; nil for none.
	Tracer oteltrace.Tracer
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of one run's lease, a random one when nil.
	NewOwner func() string
}

// Follower handles a seller's ticks.
type Follower struct {
	Parts

	mu sync.Mutex
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
	return &Follower{Parts: parts, batchRefusedUntil: map[string]time.Time{}, lastWarning: map[string]string{}}
}

// PollDue looks up one seller's due documents. It leaves a seller to the replica that is at it.
func (f *Follower) PollDue(ctx context.Context, d *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	events, settle, err := f.Tick(ctx, m.GetSeller())
	if settle != nil {
		d.AfterStored(settle)
	}
	if err != nil {
		err = fmt.Errorf("poll %s: %w", m.GetSeller(), err)
	}
	return events, err
}

// Tick is one run for a seller. It returns the events to publish, and what to do once they are stored (nil: nothing).
func (f *Follower) Tick(ctx context.Context, name string) ([]event.Event, func(context.Context) error, error) {
	s, ok := f.Sellers.Get(name)
	if !ok || !f.mayLookUp(s) {
		return nil, nil, nil
	}
	r := &run{Follower: f, seller: s, began: f.Now(), lease: "poll/" + name, owner: f.NewOwner()}
	mine, err := f.Ledger.Lease(ctx, r.lease, r.owner, leaseFor)
	if err != nil || !mine {
		return nil, nil, err
	}
	if s.Pause != nil {
		r.probe(ctx)
	} else {
		r.lookUpDue(ctx)
	}
	return r.events, r.settle, r.result()
}

// mayLookUp is false while the seller is paused and its next probe is not due. Only an operator ends an operator's pause.
func (f *Follower) mayLookUp(s *seller.Seller) bool {
	return s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_OPERATOR && !f.Now().Before(s.Pause.ProbeAt)
}

// run is one tick of one seller.
type run struct {
	*Follower
	seller       *seller.Seller
	began        time.Time
	lease, owner string

	// mu guards the fields that concurrent calls write: stop and events.
	mu sync.Mutex
	// events are published; moves are written once they are stored.
	events []event.Event
	moves  []move
	// exceptions need a person, failures do not.
	exceptions, failures []error
	// standing are failures that last.
	standing []string
	// queues are the kinds of which something is due.
	queues []*queue
	// stop is why this run starts on no further documents: a fault.Wait of the warehouse, or errEnough.
	stop error
}

// errEnough ends a run whose time is up, or whose seller was just paused; the next tick continues.
var errEnough = errors.New("enough for this run")

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
		r.stop = errEnough
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
	}
	return nil
}

// settle writes the ledger once the events are stored, and ends the lease.
func (r *run) settle(ctx context.Context) error {
	err := r.writeMoves(ctx, r.moves)
	if err == nil {
		err = r.Ledger.Unlease(ctx, r.lease, r.owner)
	}
	return err
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run) feedBreaker(err error) {
	if events, tripped := r.guard().Report(r.seller.Name(), err); tripped {
		r.stopPaused(events)
	}
}

func (r *run) guard() guard.Guard {
	return guard.Guard{Breaker: r.Breaker, Sellers: r.Sellers, ProbeAfter: r.ProbeAfter, Now: r.Now}
}

// stopPaused ends the run for a paused seller, and publishes events.
func (r *run) stopPaused(events []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = errEnough
	r.events = append(r.events, events...)
}

// nextDue is when to look up again a document in phase. A tenth of jitter spreads documents of one batch job that would
// otherwise come due together for ever.
func (f *Follower) nextDue(now time.Time, phase ledger.Phase) time.Time {
	pause := f.OpenEvery
	switch phase {
	case kind.PhaseNow:
		return now
	case kind.PhaseSoon:
		pause = f.SoonEvery
	case kind.PhaseLate:
		pause = f.LateEvery
	}
	return now.Add(pause + time.Duration(rand.Int64N(int64(pause)/10+1)))
}
