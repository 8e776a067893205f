package history

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// followEvery is the pause between two reads of the streams and of the sandbox's log, which keeps 10 000 calls.
const followEvery = 200 * time.Millisecond

// Recorder writes a history. Its methods may be called by many goroutines; Finish returns what went wrong with a file.
type Recorder struct {
	dir string

	mu     sync.Mutex
	files  map[string]*output
	failed error
	// keys are the audited documents, whose ledger entries are read at the end.
	keys map[ledger.Key]bool

	// State of following the streams: generation grows by each rollback, which restarts reading from the beginning.
	generation int
	next       map[string]uint64

	// State of following the sandbox's log.
	callsAfter int64
	callsSince time.Time
}

type output struct {
	file  *os.File
	w     *bufio.Writer
	lines int
}

// New makes the folder, which must be empty or absent, and writes the settings.
func New(dir string, s Setting) (*Recorder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("record history: %w", err)
	}
	r := &Recorder{dir: dir, files: map[string]*output{}, keys: map[ledger.Key]bool{}, next: map[string]uint64{}}
	for _, name := range files() {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			r.closeFiles()
			return nil, fmt.Errorf("record history: %w", err)
		}
		r.files[name] = &output{file: file, w: bufio.NewWriterSize(file, 64<<10)}
	}
	Add(r, Settings, s)
	return r, nil
}

// Add appends a line to a file, for lines that no method of the Recorder writes.
func Add[T any](r *Recorder, name File[T], line T) {
	raw, err := json.Marshal(line)
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.files[string(name)]
	if err == nil {
		_, err = o.w.Write(append(raw, '\n'))
	}
	if err != nil {
		r.failed = errors.Join(r.failed, fmt.Errorf("record %s: %w", name, err))
		return
	}
	o.lines++
}

// HashOf is the content of an audit, by the pusher's hash.
func HashOf(o *orderv1.Audited) string { return order.PayloadHash(o) }

// AuditOf describes an audit, without the time when it was sent.
func AuditOf(o *orderv1.Audited) Audit {
	a := Audit{
		Seller: o.Seller, OrderNo: o.OrderNo, OutboundNo: o.OutboundNo, Revision: o.Revision, Supersedes: o.Supersedes, Hash: HashOf(o),
	}
	for _, l := range o.Lines {
		a.Lines = append(a.Lines, l.LineId)
	}
	return a
}

// Audit records one publishing, when its answer has come or will no longer come.
func (r *Recorder) Audit(a Audit) {
	r.mu.Lock()
	r.keys[ledger.Key{Seller: a.Seller, Kind: "order", No: a.OutboundNo}] = true
	r.mu.Unlock()
	Add(r, Audits, a)
}

// Act records what an operator did to an order.
func (r *Recorder) Act(a Act) { Add(r, Acts, a) }

// Fault records a fault when it is over.
func (r *Recorder) Fault(f Fault) {
	if f.Ended.IsZero() {
		f.Ended = f.Began
	}
	Add(r, Faults, f)
}

// Process records an event of a process.
func (r *Recorder) Process(p Process) { Add(r, Processes, p) }

// RolledBack records that JetStream now continues from the copy taken at copied. It is called when the server is up
// again and before anything is published to it.
func (r *Recorder) RolledBack(copied time.Time) {
	r.mu.Lock()
	r.generation++
	clear(r.next)
	r.mu.Unlock()
	Add(r, Events, Event{Rollback: true, Seen: time.Now(), Copied: copied})
}

// followed are the events of each public stream.
func followed() map[string][]string {
	return map[string][]string{
		bus.StreamIntake: {event.OrderAudited.Name, event.OrderCancelRequested.Name},
		bus.StreamOrders: {
			event.OrderAccepted.Name, event.OrderHeld.Name, event.OrderFailed.Name,
			event.OrderStatusChanged.Name, event.OrderShipped.Name, event.OrderDelivered.Name, event.OrderReturning.Name,
			event.OrderCancelled.Name, event.OrderCancelRefused.Name, event.OrderCancelUnknown.Name,
		},
		bus.Holding(event.SellerChanged.Name)[0]: {event.SellerChanged.Name, event.SellerPaused.Name, event.SellerResumed.Name},
	}
}

// Watch follows the streams and the sandbox's log until stop is called, which returns when both have ended.
func (r *Recorder) Watch(ctx context.Context, b *bus.Bus, jd *control.Client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { r.Follow(ctx, b) })
	both.Go(func() { r.FollowCalls(ctx, jd) })
	return func() { cancel(); both.Wait() }
}

// Follow records events as they are stored until ctx ends. While the broker does not answer it waits.
func (r *Recorder) Follow(ctx context.Context, b *bus.Bus) {
	every(ctx, func() { _ = r.catchUp(ctx, b) }) // repeated by the next read, and by Finish, which returns the error
}

// FollowCalls records the sandbox's log of calls until ctx ends. While it does not answer it waits.
func (r *Recorder) FollowCalls(ctx context.Context, jd *control.Client) {
	every(ctx, func() { _ = r.ReadCalls(ctx, jd) })
}

func every(ctx context.Context, f func()) {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// catchUp reads each stream to its present end.
func (r *Recorder) catchUp(ctx context.Context, b *bus.Bus) error {
	for stream, names := range followed() {
		r.mu.Lock()
		generation, next := r.generation, r.next[stream]
		r.mu.Unlock()
		err := b.Events(ctx, bus.EventQuery{Stream: stream, Names: names, From: max(next, 1)}, func(s bus.Stored) error {
			line := lineOf(s)
			r.mu.Lock()
			stale := r.generation != generation
			if !stale {
				r.next[stream] = s.Seq + 1
			}
			r.mu.Unlock()
			if stale {
				return errors.New("the stream was restored")
			}
			Add(r, Events, line)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lineOf reads what the checker needs of an event. One that cannot be read has no number.
func lineOf(s bus.Stored) Event {
	e := Event{Stream: s.Stream, Seq: s.Seq, Stored: s.At, Seen: time.Now(), Name: s.Name, ID: s.ID, Seller: s.Seller}
	about := func(ref *documentv1.Ref) {
		e.Seller, e.OutboundNo, e.Revision, e.Number = ref.GetSeller(), ref.GetOutboundNo(), ref.GetRevision(), ref.GetWarehouseNo()
	}
	switch s.Name {
	case event.OrderAudited.Name:
		if m, err := bus.Decode(event.OrderAudited, s); err == nil {
			e.Seller, e.OutboundNo, e.Revision, e.Hash = m.Seller, m.OutboundNo, m.Revision, HashOf(m)
		}
	case event.OrderAccepted.Name:
		if m, err := bus.Decode(event.OrderAccepted, s); err == nil {
			about(m.Ref)
		}
	case event.OrderHeld.Name:
		if m, err := bus.Decode(event.OrderHeld, s); err == nil {
			about(m.Ref)
			e.Cause, e.Code = m.Cause, m.Reason.GetCode()
		}
	case event.OrderFailed.Name:
		if m, err := bus.Decode(event.OrderFailed, s); err == nil {
			about(m.Ref)
			e.Code = m.Reason.GetCode()
		}
	case event.OrderCancelled.Name:
		if m, err := bus.Decode(event.OrderCancelled, s); err == nil {
			about(m.Ref)
		}
	case event.OrderShipped.Name:
		if m, err := bus.Decode(event.OrderShipped, s); err == nil {
			about(m.Ref)
		}
	}
	return e
}

// ReadCalls reads the sandbox's log to its present end. It is called by one goroutine at a time.
func (r *Recorder) ReadCalls(ctx context.Context, jd *control.Client) error {
	n, err := jd.Counters(ctx)
	if err != nil {
		return err
	}
	if !r.callsSince.IsZero() && !n.Since.Equal(r.callsSince) {
		Add(r, Calls, Call{Missing: "the sandbox began anew: calls between the last look and its end are not known"})
		r.callsAfter = 0
	}
	r.callsSince = n.Since
	calls, err := jd.Calls(ctx, r.callsAfter)
	if err != nil {
		return err
	}
	for _, c := range calls {
		if c.Seq > r.callsAfter+1 {
			Add(r, Calls, Call{Missing: fmt.Sprintf("calls %d to %d were gone from the log before they were read", r.callsAfter+1, c.Seq-1)})
		}
		r.callsAfter = c.Seq
		Add(r, Calls, Call{Call: c})
	}
	return nil
}

// Sources is where the final state of a run is read from.
type Sources struct {
	Bus    *bus.Bus
	Ledger ledger.Documents
	JD     *control.Client
}

// Finish reads the final state, the streams once more from their beginning, and closes the history. The run must have
// come to rest, and Follow and FollowCalls must have returned.
func (r *Recorder) Finish(ctx context.Context, from Sources) error {
	r.mu.Lock()
	clear(r.next)
	r.mu.Unlock()
	Add(r, Events, Event{Final: true, Seen: time.Now()})
	steps := []func() error{
		func() error { return r.catchUp(ctx, from.Bus) },
		func() error { return r.ReadCalls(ctx, from.JD) },
		func() error { return r.deadLetters(ctx, from.Bus) },
		func() error { return r.ledger(ctx, from.Ledger) },
		func() error { return r.documents(ctx, from.JD) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			r.closeFiles()
			return fmt.Errorf("finish history: %w", err)
		}
	}
	return r.End()
}

// End closes a history to which nothing is added: Finish without reading anything.
func (r *Recorder) End() error {
	r.closeFiles()
	if r.failed != nil {
		return fmt.Errorf("end history: %w", r.failed)
	}
	last := ending{At: time.Now(), Lines: map[string]int{}}
	for name, o := range r.files {
		last.Lines[name] = o.lines
	}
	raw, err := json.Marshal(last)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, end), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("end history: %w", err)
	}
	return nil
}

// Abandon closes the files of a run that did not end properly. The checker calls such a folder incomplete.
func (r *Recorder) Abandon() { r.closeFiles() }

func (r *Recorder) closeFiles() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.files {
		r.failed = errors.Join(r.failed, o.w.Flush(), o.file.Close())
	}
}

func (r *Recorder) deadLetters(ctx context.Context, b *bus.Bus) error {
	q := bus.DeadLetterQuery{WithBody: true}
	for {
		items, next, err := b.DeadLetters(ctx, q)
		if err != nil {
			return err
		}
		for _, s := range items {
			line := DeadLetter{
				Kind: s.Kind, Consumer: s.Consumer, Seq: s.Seq, Seller: s.Seller, OutboundNo: s.Key, Class: s.Class, Cause: s.Cause,
				Code: s.Reason.Code, Error: s.Error, Attempts: s.Attempts, Stream: s.Stream, OriginSeq: s.OriginSeq, First: s.First, Last: s.Last,
			}
			if s.Group != nil {
				if err := r.group(ctx, b, s, line); err != nil {
					return err
				}
				continue
			}
			name, _ := event.Split(s.Subject)
			if m, err := bus.Decode(event.OrderAudited, bus.Stored{Name: name, Header: s.Header, Body: s.Body}); err == nil {
				line.OutboundNo, line.Hash = m.OutboundNo, HashOf(m)
			}
			Add(r, DeadLetters, line)
		}
		if next == 0 {
			return nil
		}
		q.After = next
	}
}

// group records the messages of a group.
func (r *Recorder) group(ctx context.Context, b *bus.Bus, s bus.DeadLetter, line DeadLetter) error {
	return s.Group.Each(func(seq uint64) error {
		m, err := b.Grouped(ctx, s, seq)
		if errors.Is(err, bus.ErrNotStored) {
			return nil
		}
		line.OriginSeq, line.First = seq, m.At
		if err == nil {
			Add(r, DeadLetters, line)
		}
		return err
	})
}

func (r *Recorder) ledger(ctx context.Context, l ledger.Documents) error {
	for k := range r.keys {
		line := Entry{Seller: k.Seller, OutboundNo: k.No}
		e, err := l.Get(ctx, k)
		switch {
		case errors.Is(err, ledger.ErrNoEntry), err == nil && e.Unclaimed():
			line.Missing = true
		case err != nil:
			return err
		default:
			line.State, line.Number, line.Tries, line.Attempts = e.State, e.Number, e.Tries, e.Attempts
		}
		Add(r, Ledger, line)
	}
	return nil
}

func (r *Recorder) documents(ctx context.Context, jd *control.Client) error {
	docs, err := jd.Documents(ctx, jdsandbox.Query{})
	if err != nil {
		return err
	}
	for _, d := range docs {
		d.Params = nil // a receiver's data, which no check needs
		Add(r, Documents, d)
	}
	v, err := jd.Violations(ctx)
	if err != nil {
		return err
	}
	Add(r, Violations, v)
	return nil
}
