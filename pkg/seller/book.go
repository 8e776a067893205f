package seller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/retry"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Keys of the bucket: a sellerv1.Setup and a sellerv1.Paused as JSON. A pause that ended is an empty body, not a
// deleted key: a reader that was cut off for long must not miss the end.
const (
	setupKey = "seller."
	pauseKey = "pause."
)

// maxStored is the largest set-up that the bucket takes, bytes; it must stay below the server's max_payload.
const maxStored = 1_000_000

var (
	// ErrChanged: somebody else applied the seller meanwhile.
	ErrChanged = errors.New("seller changed meanwhile")
	// ErrPaused: the seller is paused already, in a way that the new pause does not outrank.
	ErrPaused = errors.New("seller is paused already")
	// ErrRuns: the seller is not paused, or only an operator may resume it.
	ErrRuns = errors.New("nothing to resume")
)

// Book is all sellers as they are now. It follows the bucket, so that what one worker or operator writes is known to
// all within moments; what was written through a Book is known to that one at once. Reads wait for nobody.
type Registry struct {
	bucket *bus.Bucket
	log    zerolog.Logger
	close  func()

	mu      sync.RWMutex
	sellers map[string]*Seller
	pauses  map[string]*Pause
	// sharing are the names of the sellers of each identity.
	sharing map[string][]string
	// revisions of what is known of each key: the watch may be behind our own writes.
	revisions map[string]uint64
	ready     error
}

// Open reads the bucket and follows it until Close. It returns when all that stands there is known, or with ctx's end.
func Open(ctx context.Context, bucket *bus.Bucket, log zerolog.Logger) (*Registry, error) {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	b := &Registry{
		bucket: bucket, log: log, sellers: map[string]*Seller{}, pauses: map[string]*Pause{}, revisions: map[string]uint64{}, sharing: map[string][]string{},
		ready: errors.New("sellers' set-ups are not read yet"),
	}
	loaded, ended := make(chan struct{}), make(chan struct{})
	b.close = func() { stop(); <-ended }
	go func() {
		defer close(ended)
		b.follow(following, sync.OnceFunc(func() { close(loaded) }))
	}()
	select {
	case <-loaded:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		b.Close()
		return nil, fmt.Errorf("read sellers' set-ups: %w", errors.Join(ctx.Err(), b.Ready()))
	}
	return b, nil
}

// Close ends the following.
func (b *Registry) Close() { b.close() }

// Ready is nil while all that is known is current.
func (b *Registry) Ready() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.ready
}

// Get finds a seller.
func (b *Registry) Get(name string) (*Seller, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s, ok := b.sellers[name]
	return s, ok
}

// All is every seller, sorted by name.
func (b *Registry) All() []*Seller {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*Seller, 0, len(b.sellers))
	for _, s := range b.sellers {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y *Seller) int { return strings.Compare(x.Name(), y.Name()) })
	return all
}

// Put stores a set-up in the place of the given version of it (Seller.Version, 0 when there was none), and tells the
// new version. It returns Faults when the set-up has any, and ErrChanged when another version stands there by now. The
// caller tells the others with event.SellerChanged.
func (b *Registry) Put(ctx context.Context, setup *sellerv1.Setup, version uint64) (uint64, error) {
	if err := Validate(setup); err != nil {
		return 0, err
	}
	if was, ok := b.Get(setup.Name); ok {
		if faults := switched(was.Setup, setup, time.Now()); len(faults) > 0 {
			return 0, faults
		}
	}
	if faults := b.shared(setup); len(faults) > 0 {
		return 0, faults
	}
	key := setupKey + setup.Name
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(setup)
	if err != nil {
		return 0, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	if len(data) > maxStored {
		return 0, Faults{{Code: "setup.size", ZH: fmt.Sprintf("设置共 %d 字节，最多 %d 字节", len(data), maxStored),
			EN: fmt.Sprintf("the set-up takes %d bytes, %d at most", len(data), maxStored)}}
	}
	revision, err := b.bucket.Update(ctx, key, data, version)
	if errors.Is(err, bus.ErrRevision) {
		// It may be our own write, whose answer was lost.
		v, getErr := b.bucket.Get(ctx, key)
		stored := &sellerv1.Setup{}
		if getErr != nil || v.Revision == version || protojson.Unmarshal(v.Data, stored) != nil || !proto.Equal(stored, setup) {
			return 0, fmt.Errorf("apply %s: %w", setup.Name, ErrChanged)
		}
		revision, err = v.Revision, nil
	}
	if err != nil {
		return 0, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	b.take(bus.Value{Key: key, Data: data, Revision: revision})
	return revision, nil
}

// Pause pauses a seller; ErrPaused when it is already. An operator's pause takes the place of any other, a token's of a
// breaker's, and any of those takes the place of its like once that was due to be probed. The caller tells the others
// with PausedEvent.
func (b *Registry) Pause(ctx context.Context, name string, p Pause) error {
	if _, ok := b.Get(name); !ok {
		return fmt.Errorf("pause %s: %w", name, Unknown(name))
	}
	err := b.setPause(ctx, name, p.message(name), func(now *Pause) error {
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

// Resume ends a pause; ErrRuns when there is none, or when it is an operator's and by is not. The caller tells the
// others with ResumedEvent.
func (b *Registry) Resume(ctx context.Context, name string, by sellerv1.Paused_By) error {
	err := b.setPause(ctx, name, nil, func(now *Pause) error {
		if now == nil || now.By == sellerv1.Paused_BY_OPERATOR && by != sellerv1.Paused_BY_OPERATOR {
			return ErrRuns
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume %s: %w", name, err)
	}
	return nil
}

// setPause writes m, nil for none, if allowed agrees with what stands there.
func (b *Registry) setPause(ctx context.Context, name string, m *sellerv1.Paused, allowed func(now *Pause) error) error {
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
		v, err := b.bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrKeyNotFound) {
			return err
		}
		if unsure && bytes.Equal(v.Data, data) {
			b.take(v)
			return nil
		}
		now, err := decodePause(v.Data)
		if err == nil {
			err = allowed(now)
		}
		if err != nil {
			refused = err
			return fault.Permanent(err) // ends the repeating
		}
		revision, err := b.bucket.Update(ctx, key, data, v.Revision)
		if err != nil {
			unsure = unsure || !errors.Is(err, bus.ErrRevision)
			return err // somebody was faster, or the store is away: look again
		}
		b.take(bus.Value{Key: key, Data: data, Revision: revision})
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

// follow takes what the bucket tells until ctx ends; a watch that breaks is begun anew.
func (b *Registry) follow(ctx context.Context, loaded func()) {
	for ctx.Err() == nil {
		err := b.watch(ctx, loaded)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		b.ready = fmt.Errorf("sellers' set-ups may be out of date: %w", err)
		b.mu.Unlock()
		b.log.Warn().Err(err).Msg("following sellers' set-ups was interrupted")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (b *Registry) watch(ctx context.Context, loaded func()) error {
	seen, err := b.bucket.Watch(ctx, "")
	if err != nil {
		return err
	}
	// What is told now takes the place of whatever was known: the bucket may have been put back.
	b.mu.Lock()
	for key := range b.revisions {
		b.revisions[key] = 0
	}
	b.mu.Unlock()
	for s := range seen {
		switch {
		case s.Current:
			b.mu.Lock()
			for key, revision := range b.revisions {
				if revision == 0 { // it is gone
					b.set(bus.Value{Key: key})
					delete(b.revisions, key)
				}
			}
			b.ready = nil
			b.mu.Unlock()
			loaded()
		default:
			b.take(s.Value)
		}
	}
	return errors.New("the watch ended")
}

// take makes v known unless something newer is. A key that was deleted by hand has no data: no set-up, no pause.
func (b *Registry) take(v bus.Value) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.Revision <= b.revisions[v.Key] {
		return
	}
	b.revisions[v.Key] = v.Revision
	b.set(v)
}

// set makes v known. The caller holds b.mu.
func (b *Registry) set(v bus.Value) {
	name, isSetup := strings.CutPrefix(v.Key, setupKey)
	if !isSetup {
		var isPause bool
		if name, isPause = strings.CutPrefix(v.Key, pauseKey); !isPause {
			return
		}
	}
	if !isSetup {
		p, err := decodePause(v.Data)
		if err != nil {
			// Whoever wrote it wanted a pause.
			p = &Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "unreadable: " + err.Error(), At: v.At}
			b.log.Error().Err(err).Str("seller", name).Msg("pause cannot be read")
		}
		b.pauses[name] = p
		if s := b.sellers[name]; s != nil {
			paused := *s
			paused.Pause = p
			b.sellers[name] = &paused
		}
		return
	}
	was := b.sellers[name]
	if len(v.Data) == 0 {
		delete(b.sellers, name)
		b.share(name, was, nil)
		return
	}
	setup := &sellerv1.Setup{}
	err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(v.Data, setup)
	if err == nil && setup.Name != name {
		err = fmt.Errorf("it is the set-up of %q", setup.Name)
	}
	if err != nil {
		// What was known before stays in force.
		b.log.Error().Err(err).Str("seller", name).Msg("set-up cannot be read")
		return
	}
	s := New(setup, b.pauses[name])
	s.Version = v.Revision
	b.sellers[name] = s
	b.share(name, was, s)
}
