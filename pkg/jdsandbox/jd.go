package jdsandbox

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// JD is the sandbox. All methods may be called by many goroutines.
type JD struct {
	now     func() time.Time
	master  Config // as at the start
	journal *journal
	control http.Handler
	closed  chan struct{}

	mu       sync.Mutex
	state    *state
	knobs    Knobs
	apps     map[string]*app
	tokens   map[string]grant
	auth     authServer
	calls    ring[Call]
	count    Counters
	attempts map[string]int
	faultIDs int
	rnd      *rand.Rand // for what no order depends on

	// Of the flow: who reads what, how many readings a row was missing from, how many ends were returned, and the newest
	// listing.
	readings map[window]*reading
	readers  uint64
	missed   []uint8
	ends     uint64
	list     []int32
	listed   listing
	knobSets int // how often the knobs were changed
	counts   uint64
	inner    uint64
}

type app struct {
	key, secret string
	meter
}

type grant struct {
	Token
	app *app
}

// New starts a sandbox. Close it if it keeps a State.
func New(cfg Config) (*JD, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	jd := &JD{now: cfg.Now, master: cfg, closed: make(chan struct{}), state: newState()}
	var err error
	if jd.journal, err = openJournal(cfg.State, jd.state); err != nil {
		return nil, err
	}
	jd.control = jd.controlAPI()
	jd.begin()
	return jd, nil
}

// begin sets everything but the documents as in the Config. The warehouse's clock continues from where it is.
func (jd *JD) begin() {
	now, speed := jd.now(), jd.master.Speed
	if jd.master.Stopped {
		speed = 0
	}
	shown := now
	if c := jd.state.clock; !c.Real.IsZero() {
		shown = c.at(now)
		if shown.Before(c.Shown) { // the host's clock was set back
			shown = c.Shown
		}
	}
	jd.change(record{Clock: &clock{Real: now, Shown: shown, Speed: speed}})
	jd.knobs, jd.faultIDs = jd.master.Knobs.clone(), 0
	jd.nameFaults(jd.knobs.Faults)
	jd.apps, jd.tokens, jd.auth = map[string]*app{}, map[string]grant{}, newAuthServer()
	for _, a := range jd.master.Apps {
		jd.apps[a.Key] = &app{key: a.Key, secret: a.Secret}
		for _, t := range a.Tokens {
			jd.tokens[t.Value] = grant{Token: t, app: jd.apps[a.Key]}
		}
	}
	jd.calls, jd.count, jd.attempts = ring[Call]{}, newCounters(now), map[string]int{}
	jd.rnd = jd.random("latency")
	jd.readings, jd.readers, jd.missed, jd.ends, jd.counts, jd.inner = map[window]*reading{}, 0, nil, 0, 0, 0
	jd.list, jd.listed = nil, listing{}
	goods := slices.DeleteFunc(slices.Clone(jd.master.Stock), jd.state.stock.has)
	if len(goods) > 0 {
		jd.change(record{Stocked: goods})
	}
}

// Close ends it: delayed calls continue at once, later ones with a State fail. It returns what went wrong with the State.
func (jd *JD) Close() error {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	select {
	case <-jd.closed:
	default:
		close(jd.closed)
	}
	return jd.journal.close()
}

// ServeHTTP is the gateway at …/routerjson, the authorisation server at …/oauth/ and …/oauth2/, and the control API below
// /_sandbox/.
func (jd *JD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	auth, isAuth := jd.authPath(r.URL.Path)
	switch {
	case strings.HasPrefix(r.URL.Path, "/_sandbox/"):
		jd.control.ServeHTTP(w, r)
	case !isAuth && !strings.HasSuffix(r.URL.Path, "/routerjson"):
		http.Error(w, "the gateway is /routerjson, the authorisation server /oauth/ and /oauth2/, the control API /_sandbox/", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "GET or POST", http.StatusMethodNotAllowed)
	case isAuth:
		auth(w, r)
	default:
		jd.route(w, r)
	}
}

// change applies a record and queues it for the file. The caller holds jd.mu or is New.
func (jd *JD) change(r record) {
	if jd.state.stock.used() || len(jd.state.stock.due) > 0 {
		r.Settled = jd.shown()
	}
	jd.journal.add(r)
	jd.state.apply(r)
}

// random is a random source for what the parts name.
func (jd *JD) random(parts ...string) *rand.Rand {
	h := fnv.New64a()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return rand.New(rand.NewPCG(jd.master.Seed, h.Sum64()))
}

// pause delays a call, whether or not its caller is still there: JD would not know either.
func (jd *JD) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-jd.closed:
	}
}

// shown is the warehouse's time. The caller holds jd.mu.
func (jd *JD) shown() time.Time { return jd.state.clock.at(jd.now()) }

func (jd *JD) violated(c *call, kind ViolationKind) {
	jd.change(record{Violation: &Violation{Kind: kind, At: c.arrived, App: c.app.key, Method: c.method}})
}

// Knobs returns a copy of the knobs with defaults filled in.
func (jd *JD) Knobs() Knobs {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	return jd.knobs.clone()
}

// SetKnobs changes the knobs. A faulty setting is an error that names all faults, and changes nothing.
func (jd *JD) SetKnobs(set func(*Knobs)) error {
	return jd.changeKnobs(func(k *Knobs) error { set(k); return nil })
}

func (jd *JD) changeKnobs(set func(*Knobs) error) error {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	k := jd.knobs.clone()
	if err := set(&k); err != nil {
		return err
	}
	k.setDefaults()
	if err := k.check(); err != nil {
		return err
	}
	k = k.clone() // set may have kept a list
	jd.nameFaults(k.Faults)
	jd.knobs = k
	jd.knobSets++
	return nil
}

func (jd *JD) nameFaults(faults []Fault) {
	for i := range faults {
		for faults[i].ID == "" {
			jd.faultIDs++
			id := "fault-" + strconv.Itoa(jd.faultIDs)
			if !slices.ContainsFunc(faults, func(f Fault) bool { return f.ID == id }) {
				faults[i].ID = id
			}
		}
	}
}

// AddFault appends a fault and returns its id.
func (jd *JD) AddFault(f Fault) (id string, err error) {
	err = jd.changeKnobs(func(k *Knobs) error {
		f.Fired = 0
		k.Faults = append(k.Faults, f)
		return nil
	})
	if err != nil {
		return "", err
	}
	jd.mu.Lock()
	defer jd.mu.Unlock()
	return jd.knobs.Faults[len(jd.knobs.Faults)-1].ID, nil
}

// RemoveFault removes one fault and reports whether it existed.
func (jd *JD) RemoveFault(id string) bool {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	n := len(jd.knobs.Faults)
	jd.knobs.Faults = slices.DeleteFunc(jd.knobs.Faults, func(f Fault) bool { return f.ID == id })
	return len(jd.knobs.Faults) < n
}

// ClearFaults removes all faults.
func (jd *JD) ClearFaults() {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	jd.knobs.Faults = nil
}

// Clock returns the warehouse's time and its speed.
func (jd *JD) Clock() (now time.Time, speed float64) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	return jd.shown(), jd.state.clock.Speed
}

// lastYear leaves room for the longest walk before times can no longer be written as JSON.
const lastYear = 5000

// Advance advances the warehouse's clock, by at most a year at once.
func (jd *JD) Advance(by time.Duration) error {
	if by < 0 {
		return fmt.Errorf("advance: %v: the clock does not go back", by)
	}
	if by > maxStep {
		return fmt.Errorf("advance: %v: at most %v at once", by, maxStep)
	}
	jd.mu.Lock()
	to := jd.shown().Add(by)
	if to.Year() > lastYear {
		jd.mu.Unlock()
		return fmt.Errorf("advance: to %d: the clock ends in %d", to.Year(), lastYear)
	}
	jd.change(record{Clock: &clock{Real: jd.now(), Shown: to, Speed: jd.state.clock.Speed}})
	jd.mu.Unlock()
	return jd.journal.sync()
}

// SetSpeed makes the warehouse's clock run that many times as fast as the host's; 0 stops it.
func (jd *JD) SetSpeed(speed float64) error {
	var f faults
	if f.speed(speed); len(f) > 0 {
		return f[0]
	}
	jd.mu.Lock()
	jd.change(record{Clock: &clock{Real: jd.now(), Shown: jd.shown(), Speed: speed}})
	jd.mu.Unlock()
	return jd.journal.sync()
}

// SetToken adds a token to the app (named by its key; "" is the only one) or replaces it.
func (jd *JD) SetToken(appKey string, t Token) error {
	var f faults
	if t.check("", &f); len(f) > 0 {
		return f[0]
	}
	jd.mu.Lock()
	defer jd.mu.Unlock()
	if appKey == "" && len(jd.apps) == 1 {
		for appKey = range jd.apps {
		}
	}
	a := jd.apps[appKey]
	if a == nil {
		return fmt.Errorf("app %q: unknown", appKey)
	}
	if old, taken := jd.tokens[t.Value]; taken && old.app != a {
		return fmt.Errorf("token: belongs to another app")
	}
	jd.tokens[t.Value] = grant{Token: t, app: a}
	return nil
}

// ExpireToken ends a token's life at a time of the gateway's clock; the zero time is now. It reports whether the token is
// known.
func (jd *JD) ExpireToken(token string, at time.Time) bool {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	g, known := jd.tokens[token]
	if !known {
		return false
	}
	if at.IsZero() {
		at = jd.now().Add(time.Duration(jd.knobs.ClockSkew))
	}
	g.Expires = at
	jd.tokens[token] = g
	return true
}

// Documents returns what JD has under the isvUUIDs, or everything, in the order of arrival, without Params.
func (jd *JD) Documents(isvUUIDs ...string) []Document {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	if len(isvUUIDs) == 0 {
		docs, _ := jd.page(Query{})
		return docs
	}
	var docs []Document
	for _, number := range isvUUIDs {
		more, _ := jd.page(Query{IsvUUID: number})
		docs = append(docs, more...)
	}
	return docs
}

// Document returns one with its Params.
func (jd *JD) Document(eclpSoNo string) (Document, bool) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	d := jd.state.byNo[eclpSoNo]
	if d == nil || !d.exists(jd.shown()) {
		return Document{}, false
	}
	v := jd.state.view(d, jd.shown(), jd.knobs.Split.ParentStays)
	if v.Params = d.Params; d.Parent != "" {
		v.Params = jd.state.byNo[d.Parent].Params
	}
	return v, true
}

// Query selects documents. Empty fields select all.
type Query struct {
	IsvUUID, DepartmentNo string
	Status                Code
	// After is the Seq of the last one known; Limit is the maximum, 0 means all.
	After int64
	Limit int
}

// page returns the selected documents and, if there may be more, the Seq to continue after. The caller holds jd.mu.
func (jd *JD) page(q Query) (docs []Document, next int64) {
	now := jd.shown()
	all := jd.state.all
	if q.IsvUUID != "" {
		all = nil
		for _, d := range jd.state.byNumber[q.IsvUUID] {
			all = append(append(all, d), jd.state.split(d, now)...)
		}
	}
	from, _ := slices.BinarySearchFunc(all, q.After+1, func(d *document, seq int64) int { return int(d.Seq - seq) })
	for _, d := range all[from:] {
		if q.DepartmentNo != "" && d.Dept != q.DepartmentNo || !d.exists(now) {
			continue
		}
		v := jd.state.view(d, now, jd.knobs.Split.ParentStays)
		if q.Status != "" && v.Status != q.Status {
			continue
		}
		if q.Limit > 0 && len(docs) == q.Limit {
			return docs, docs[len(docs)-1].Seq
		}
		docs = append(docs, v)
	}
	return docs, 0
}

// Violations returns what was found wrong.
func (jd *JD) Violations() Violations {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	v := Violations{Counts: map[ViolationKind]int64{}, Items: jd.state.wrong.items.newest()}
	for _, kind := range []ViolationKind{TwoDocuments, LineLiveTwice, TwoPurchases, QuotaExceeded, ConcurrencyExceeded, BadSignature} {
		v.Counts[kind] = jd.state.wrong.counts[kind]
		v.Total += v.Counts[kind]
	}
	return v
}

// Calls returns the newest 10 000 calls, oldest first.
func (jd *JD) Calls() []Call {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	return jd.calls.newest()
}

// Counters returns a copy.
func (jd *JD) Counters() Counters {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	c := jd.count
	c.Calls, c.Codes = maps.Clone(c.Calls), maps.Clone(c.Codes)
	c.Faults, c.Refused, c.CancelAsked = maps.Clone(c.Faults), maps.Clone(c.Refused), maps.Clone(c.CancelAsked)
	c.Purchases.Refused, c.Purchases.CancelAsked = maps.Clone(c.Purchases.Refused), maps.Clone(c.Purchases.CancelAsked)
	return c
}

// Reset forgets all documents, violations, calls and counters, and restores the initial knobs, tokens and speed. Numbers
// continue, and the warehouse's clock does not go back.
func (jd *JD) Reset() error {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	fresh := newState()
	fresh.seq, fresh.clock = jd.state.seq, jd.state.clock
	fresh.stock.first = jd.state.stock.first + int64(len(jd.state.stock.rows))
	if err := jd.journal.restart(record{Seq: fresh.seq, Clock: &fresh.clock, Rows: fresh.stock.first}); err != nil {
		return err
	}
	jd.state = fresh
	jd.begin()
	return jd.journal.sync()
}
