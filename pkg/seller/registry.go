package seller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/retry"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Keys of the bucket: a sellerv1.Setup and a sellerv1.Paused as JSON, a key whose time says when an identity of the
// set-up changed last, and keys that find the sellers of an identity (Store). A pause that ended is an empty body, not a
// deleted key: a reader that was cut off for long must not miss the end.
const (
	setupKey    = "seller."
	pauseKey    = "pause."
	movedKey    = "moved."
	identityKey = "identity."
)

// maxStored is the largest set-up that the bucket accepts, bytes; it must stay below the server's max_payload.
const maxStored = 1_000_000

var (
	// ErrChanged: somebody else applied the seller meanwhile.
	ErrChanged = errors.New("seller changed meanwhile")
	// ErrPaused: the seller is paused already, in a way that the new pause does not outrank.
	ErrPaused = errors.New("seller is paused already")
	// ErrNotPaused: the seller is not paused, or only an operator may resume it.
	ErrNotPaused = errors.New("nothing to resume")
)

// Registry is all sellers as they are now. It follows the bucket, so that every worker soon knows what another worker
// or an operator writes; writes through a Registry are visible in it at once. Reads never block on I/O.
type Registry struct {
	bucket *bus.Bucket
	log    zerolog.Logger
	close  func()

	mu      sync.RWMutex
	sellers map[string]*Seller
	pauses  map[string]*Pause
	moved   map[string]time.Time
	// byIdentity are the names of the sellers of each identity.
	byIdentity map[string][]string
	// revisions known of each key: the watch may be behind our own writes.
	revisions map[string]uint64
	ready     error
}

// Open reads the bucket and follows it until Close. It returns when the whole bucket was read, or when ctx ends.
func Open(ctx context.Context, bucket *bus.Bucket, log zerolog.Logger) (*Registry, error) {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Registry{
		bucket: bucket, log: log, sellers: map[string]*Seller{}, pauses: map[string]*Pause{}, moved: map[string]time.Time{}, revisions: map[string]uint64{}, byIdentity: map[string][]string{},
		ready: errors.New("sellers' set-ups are not read yet"),
	}
	loaded, ended := make(chan struct{}), make(chan struct{})
	r.close = func() { stop(); <-ended }
	go func() {
		defer close(ended)
		r.keepWatching(following, sync.OnceFunc(func() { close(loaded) }))
	}()
	select {
	case <-loaded:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		r.Close()
		return nil, fmt.Errorf("read sellers' set-ups: %w", errors.Join(ctx.Err(), r.Ready()))
	}
	return r, nil
}

// Close stops following.
func (r *Registry) Close() { r.close() }

// Ready is nil while the registry is current.
func (r *Registry) Ready() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ready
}

// Get finds a seller.
func (r *Registry) Get(name string) (*Seller, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.sellers[name]
	return s, ok
}

// Names are the names of all sellers, in no order.
func (r *Registry) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Keys(r.sellers))
}

// Paused are the sellers that are paused, in no order.
func (r *Registry) Paused() (paused []*Seller) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for name, p := range r.pauses {
		if s := r.sellers[name]; p != nil && s != nil {
			paused = append(paused, s)
		}
	}
	return paused
}

// Alone reports whether there is one seller at most.
func (r *Registry) Alone() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.sellers) <= 1
}

// All is every seller, sorted by name.
func (r *Registry) All() []*Seller {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Seller, 0, len(r.sellers))
	for _, s := range r.sellers {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y *Seller) int { return strings.Compare(x.Name(), y.Name()) })
	return all
}

// Put is Store.Put, and the set-up is visible in the Registry at once.
func (r *Registry) Put(ctx context.Context, setup *sellerv1.Setup, version uint64) (uint64, error) {
	revision, written, err := Store{r.bucket}.put(ctx, setup, version)
	for _, v := range written {
		r.applyNewer(v)
	}
	return revision, err
}

// Pause pauses a seller; ErrPaused when it is paused already. An operator's pause replaces any other, a token's
// replaces a breaker's, and each replaces its own kind once that was due for a probe. The caller publishes
// PausedEvent.
func (r *Registry) Pause(ctx context.Context, name string, p Pause) error {
	if _, ok := r.Get(name); !ok {
		return fmt.Errorf("pause %s: %w", name, Unknown(name))
	}
	err := r.setPause(ctx, name, p.Message(name), func(now *Pause) error {
		if now != nil && !outranks(p, *now) {
			return ErrPaused
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pause %s: %w", name, err)
	}
	return nil
}

func outranks(p, now Pause) bool {
	rank := map[sellerv1.Paused_By]int{sellerv1.Paused_BY_BREAKER: 1, sellerv1.Paused_BY_TOKEN: 2, sellerv1.Paused_BY_OPERATOR: 3}
	switch {
	case p.By == sellerv1.Paused_BY_OPERATOR:
		return true
	case rank[p.By] == rank[now.By]:
		return !p.At.Before(now.ProbeAt)
	default:
		return rank[p.By] > rank[now.By]
	}
}

// Resume ends a pause; ErrNotPaused when there is none, or when it is an operator's and by is not. The caller
// publishes ResumedEvent.
func (r *Registry) Resume(ctx context.Context, name string, by sellerv1.Paused_By) error {
	err := r.setPause(ctx, name, nil, func(now *Pause) error {
		if now == nil || now.By == sellerv1.Paused_BY_OPERATOR && by != sellerv1.Paused_BY_OPERATOR {
			return ErrNotPaused
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume %s: %w", name, err)
	}
	return nil
}

// setPause writes m, nil for none, if allowed accepts the present pause.
func (r *Registry) setPause(ctx context.Context, name string, m *sellerv1.Paused, allowed func(now *Pause) error) error {
	var data []byte
	if m != nil {
		var err error
		if data, err = protojson.Marshal(m); err != nil {
			return err
		}
	}
	key := pauseKey + name
	var refused error
	unsure := false // an earlier write's answer was lost
	err := retry.Do(ctx, retry.Policy{}, func(ctx context.Context) error {
		v, err := r.bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrKeyNotFound) {
			return err
		}
		if unsure && bytes.Equal(v.Data, data) {
			r.applyNewer(v)
			return nil
		}
		now, err := decodePause(v.Data)
		if err == nil {
			err = allowed(now)
		}
		if err != nil {
			refused = err
			return fault.Permanent(err) // ends the retries
		}
		revision, err := r.bucket.Update(ctx, key, data, v.Revision)
		if err != nil {
			unsure = unsure || !errors.Is(err, bus.ErrRevision)
			return err // somebody was faster, or the store is down: read again
		}
		r.applyNewer(bus.Value{Key: key, Data: data, Revision: revision})
		return nil
	})
	if refused != nil {
		return refused
	}
	return err
}

func decodePause(data []byte) (*Pause, error) {
	if len(data) == 0 {
		return nil, nil
	}
	m := &sellerv1.Paused{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return nil, err
	}
	p := &Pause{By: m.By, Reason: m.Reason, At: m.At.AsTime()}
	if m.ProbeAfter != nil {
		p.ProbeAfter = m.ProbeAfter.AsDuration()
		p.ProbeAt = p.At.Add(p.ProbeAfter)
	}
	return p, nil
}

// keepWatching applies the bucket's changes until ctx ends; a watch that breaks is replaced by a new one.
func (r *Registry) keepWatching(ctx context.Context, loaded func()) {
	for ctx.Err() == nil {
		err := r.watch(ctx, loaded)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.ready = fmt.Errorf("sellers' set-ups may be out of date: %w", err)
		r.mu.Unlock()
		r.log.Warn().Err(err).Msg("following sellers' set-ups was interrupted")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (r *Registry) watch(ctx context.Context, loaded func()) error {
	seen, err := r.bucket.Watch(ctx, "")
	if err != nil {
		return err
	}
	// The new watch replaces everything known: the bucket may have been restored from an older copy.
	r.mu.Lock()
	for key := range r.revisions {
		r.revisions[key] = 0
	}
	r.mu.Unlock()
	for s := range seen {
		switch {
		case s.Current:
			r.mu.Lock()
			for key, revision := range r.revisions {
				if revision == 0 { // it was deleted
					r.apply(bus.Value{Key: key})
					delete(r.revisions, key)
				}
			}
			r.ready = nil
			r.mu.Unlock()
			loaded()
		default:
			r.applyNewer(s.Value)
		}
	}
	return errors.New("the watch ended")
}

// applyNewer applies v unless something newer is known. A key that was deleted by hand has no data: no set-up, no
// pause.
func (r *Registry) applyNewer(v bus.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.Revision <= r.revisions[v.Key] || strings.HasPrefix(v.Key, identityKey) {
		return
	}
	r.revisions[v.Key] = v.Revision
	r.apply(v)
}

// apply applies v. The caller holds r.mu.
func (r *Registry) apply(v bus.Value) {
	if name, ok := strings.CutPrefix(v.Key, setupKey); ok {
		r.applySetup(name, v)
	} else if name, ok := strings.CutPrefix(v.Key, pauseKey); ok {
		r.applyPause(name, v)
	} else if name, ok := strings.CutPrefix(v.Key, movedKey); ok {
		r.moved[name] = v.At
		r.change(name, func(s *Seller) { s.MovedAt = v.At })
	}
}

// change replaces a known seller by a changed copy.
func (r *Registry) change(name string, change func(*Seller)) {
	if s := r.sellers[name]; s != nil {
		changed := *s
		change(&changed)
		r.sellers[name] = &changed
	}
}

func (r *Registry) applyPause(name string, v bus.Value) {
	p, err := decodePause(v.Data)
	if err != nil {
		// Its writer wanted a pause.
		p = &Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "unreadable: " + err.Error(), At: v.At}
		r.log.Error().Err(err).Str("seller", name).Msg("pause cannot be read")
	}
	r.pauses[name] = p
	r.change(name, func(s *Seller) { s.Pause = p })
}

func (r *Registry) applySetup(name string, v bus.Value) {
	was := r.sellers[name]
	if len(v.Data) == 0 {
		delete(r.sellers, name)
		r.indexIdentities(name, was, nil)
		return
	}
	setup, err := decodeSetup(name, v.Data)
	if err != nil {
		// The previous set-up stays in force.
		r.log.Error().Err(err).Str("seller", name).Msg("set-up cannot be read")
		return
	}
	s := New(setup, r.pauses[name])
	s.Version, s.MovedAt = v.Revision, r.moved[name]
	r.sellers[name] = s
	r.indexIdentities(name, was, s)
}
