// Package token keeps the tokens that a warehouse's merchants granted us, and renews them in time, once for all
// replicas.
//
// A token is stored in a bucket of the bus, sealed with AES-256-GCM under a key that only the processes have
// (TOKEN_KEY); its expiry and the result of the last refresh are stored beside it in clear. The Store reads and
// writes; the Keeper renews. The package knows no warehouse's words: an Authority does.
//
// # Why
//
// Each worker watches all tokens in a small loop over what it has in memory, and compare-and-set in the bucket
// decides who asks: a claim with an owner and a time limit is written first, the others continue with the old token
// meanwhile. It is no tick on the bus because a call that meets a refused token needs the same claim at once, in
// whichever process that happens; a tick would add a consumer, a schedule for each seller and a worker that must run,
// and decide nothing. There is no leader either way.
//
// A refresh whose answer was lost may have changed the tokens. It is tried again with the same refresh token, after a
// growing pause: nobody knows whether JD accepts one twice (see docs/jd-api.md, Authorisation), and without trying, a
// person would be needed for certain. A claim whose owner vanished counts as a lost answer.
//
// The meaning of a refusal's code is not published. So each refusal says "a new consent is needed", and the same
// refresh token is tried once an hour all the same: if the warehouse only had a temporary problem, the token recovers
// without a person.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/retry"
	"stockbridge/pkg/secret"
	sellerv1 "stockbridge/proto/seller/v1"
)

var (
	// ErrPerson says that there is no usable token until a person does something; a fault.Reason beside it says what.
	ErrPerson = errors.New("no usable token")
	// ErrNone says that no consent is stored. It is an ErrPerson too.
	ErrNone = errors.New("not authorised")
)

// ID names a token's seller and account.
type ID struct{ Seller, Account string }

func (id ID) String() string { return id.Seller + "/" + id.Account }

func (id ID) key() string { return id.Seller + "." + id.Account }

// Grant is what an Authority issues.
type Grant struct {
	Access secret.Text
	// Refresh is empty when none was issued: the previous one stays valid.
	Refresh secret.Text
	// Life of the access token from the time of the request; 0 when not given.
	Life time.Duration
	// Owner is who consented, in the warehouse's numbers; empty when not given.
	Owner string
}

// Authority is a warehouse's authorisation server, for one account.
type Authority interface {
	// ConsentURL is the page on which the merchant consents. It redirects to redirect with a code and state.
	ConsentURL(redirect, state string) (string, error)
	// Exchange exchanges the code for tokens, Refresh a refresh token. A refusal is a fault.Permanent, a lost answer
	// a fault.Unknown; after any other error nothing has happened. Errors show no secret.
	Exchange(ctx context.Context, code, redirect, state string) (Grant, error)
	Refresh(ctx context.Context, refresh secret.Text) (Grant, error)
}

// Source is where an adapter gets an account's token from: a Keeper, or a Reader in processes that only read. An error
// that a person has to clear is an ErrPerson.
type Source interface {
	// Token returns the token to call with.
	Token(id ID, a *sellerv1.Account) (Current, error)
	// Renew returns a later grant than used, which the warehouse refused.
	Renew(ctx context.Context, id ID, a *sellerv1.Account, used Current) (Current, error)
}

// Current is a token to call with.
type Current struct {
	Secret secret.Text
	// Grant grows with each grant, whether or not the text changes. 0 is none.
	Grant uint64
}

// record is the stored form.
type record struct {
	// App is the application that the token belongs to, Owner who consented.
	App   string `json:"app"`
	Owner string `json:"owner,omitempty"`
	// Grant counts the grants.
	Grant uint64 `json:"grant"`
	// Key and Box are the sealed pair.
	Key string `json:"key"`
	Box []byte `json:"box"`
	// Renewable: the pair has a refresh token.
	Renewable bool      `json:"renewable"`
	GrantedAt time.Time `json:"granted_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Assumed: the warehouse gave no life.
	Assumed bool `json:"assumed,omitempty"`
	// Refreshed: it was issued for a refresh token, not for a consent.
	Refreshed bool `json:"refreshed,omitempty"`

	// Claim is held by the process that asks for new tokens now.
	Claim *claim `json:"claim,omitempty"`
	// Failed is the result of the last refresh since the grant, Tries how many failed in a row, Lost how many of them
	// without an answer.
	Failed   Outcome       `json:"failed,omitempty"`
	Reason   *fault.Reason `json:"reason,omitempty"`
	FailedAt time.Time     `json:"failed_at,omitzero"`
	Tries    int           `json:"tries,omitempty"`
	Lost     int           `json:"lost,omitempty"`
	NextTry  time.Time     `json:"next_try,omitzero"`
}

type claim struct {
	By    string    `json:"by"`
	Until time.Time `json:"until"`
}

func (c *claim) live(now time.Time) bool { return c != nil && now.Before(c.Until) }

// refreshAt is when to renew it: with a third of its life left, but no earlier than a week before its end.
func (r record) refreshAt() time.Time {
	return r.ExpiresAt.Add(-min(r.ExpiresAt.Sub(r.GrantedAt)/3, refreshBefore))
}

const (
	// refreshBefore is for tokens that live for months.
	refreshBefore = 7 * 24 * time.Hour
	// assumedLife is the life of a token without a given life: the shortest known (see docs/jd-api.md,
	// Authorisation).
	assumedLife = 24 * time.Hour
)

// State is the public part of a token's record.
type State struct {
	App, Owner           string
	GrantedAt, ExpiresAt time.Time
	// Assumed: the warehouse did not say when it expires.
	Assumed   bool
	RefreshAt time.Time
	// Renewable: it can be refreshed at all.
	Renewable bool
	// Failed is the result of the last refresh, "" when it succeeded; Reason explains a refusal.
	Failed   Outcome
	Reason   *fault.Reason
	FailedAt time.Time
	NextTry  time.Time
	// Key is the id of the key that sealed it.
	Key string
}

func (r record) state() State {
	return State{
		App: r.App, Owner: r.Owner, GrantedAt: r.GrantedAt, ExpiresAt: r.ExpiresAt, Assumed: r.Assumed, RefreshAt: r.refreshAt(),
		Renewable: r.Renewable, Failed: r.Failed, Reason: r.Reason, FailedAt: r.FailedAt, NextTry: r.NextTry, Key: r.Key,
	}
}

// stored is a record at a revision of the bucket.
type stored struct {
	record
	revision uint64
}

// Store is all tokens as they are now. It follows the bucket; reads never block on I/O.
type Store struct {
	bucket *bus.Bucket
	keys   Keys
	log    zerolog.Logger
	close  func()
	// storeTimeout is how long a write is retried.
	storeTimeout time.Duration

	mu      sync.Mutex
	known   map[ID]stored
	changed chan struct{} // closed and replaced at each change
	ready   error
}

// Open reads the bucket and follows it until Close. It returns when the whole bucket was read, or when ctx ends.
func Open(ctx context.Context, bucket *bus.Bucket, keys Keys, log zerolog.Logger) (*Store, error) {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{bucket: bucket, keys: keys, log: log, storeTimeout: storeTimeout, known: map[ID]stored{}, changed: make(chan struct{}), ready: errors.New("tokens are not read yet")}
	loaded, ended := make(chan struct{}), make(chan struct{})
	s.close = func() { stop(); <-ended }
	go func() {
		defer close(ended)
		s.keepWatching(following, sync.OnceFunc(func() { close(loaded) }))
	}()
	select {
	case <-loaded:
		return s, nil
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("read tokens: %w", errors.Join(ctx.Err(), s.Ready()))
	}
}

// Close stops following.
func (s *Store) Close() { s.close() }

// Ready is nil while the store is current.
func (s *Store) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *Store) keepWatching(ctx context.Context, loaded func()) {
	for ctx.Err() == nil {
		err := s.watch(ctx, loaded)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.ready = fmt.Errorf("tokens may be out of date: %w", err)
		s.mu.Unlock()
		s.log.Warn().Err(err).Msg("following tokens was interrupted")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Store) watch(ctx context.Context, loaded func()) error {
	seen, err := s.bucket.Watch(ctx, "")
	if err != nil {
		return err
	}
	// The new watch replaces everything known: the bucket may have been restored from an older copy.
	s.mu.Lock()
	for id, was := range s.known {
		s.known[id] = stored{was.record, 0}
	}
	s.mu.Unlock()
	for v := range seen {
		if v.Current {
			s.mu.Lock()
			for id, was := range s.known {
				if was.revision == 0 { // it was deleted
					delete(s.known, id)
				}
			}
			s.ready = nil
			s.mu.Unlock()
			loaded()
			continue
		}
		s.applyNewer(v.Value)
	}
	return errors.New("the watch ended")
}

// applyNewer applies v unless something newer is known, and returns what is known then.
func (s *Store) applyNewer(v bus.Value) stored {
	sellerName, account, ok := strings.Cut(v.Key, ".")
	if !ok {
		return stored{}
	}
	id := ID{sellerName, account}
	var r record
	if len(v.Data) > 0 {
		if err := json.Unmarshal(v.Data, &r); err != nil || r.Grant == 0 {
			s.log.Error().Str("seller", sellerName).Str("account", account).Msg("stored token cannot be read; authorise again")
			r = record{}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[id].revision < v.Revision {
		s.known[id] = stored{r, v.Revision}
		close(s.changed)
		s.changed = make(chan struct{})
	}
	return s.known[id]
}

// changes is closed at the next change.
func (s *Store) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Store) get(id ID) stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id]
}

// State is the state of the token of id; false when no consent is stored.
func (s *Store) State(id ID) (State, bool) {
	r := s.get(id)
	return r.state(), r.Grant != 0
}

// Token is the known token of an account. Its errors are ErrPerson, and ErrNone besides when there is none.
func (s *Store) Token(id ID, account *sellerv1.Account) (Current, error) {
	now, _, err := s.open(id, account, s.get(id).record)
	return now, err
}

// open opens a record.
func (s *Store) open(id ID, account *sellerv1.Account, r record) (now Current, refresh secret.Text, err error) {
	person := func(code, zh, en string) error {
		return fmt.Errorf("%w: %w", ErrPerson, fault.Reason{Code: code, ZH: zh, EN: en})
	}
	authorize := "bridgectl seller authorize " + id.Seller + " --account " + id.Account
	switch {
	case r.Grant == 0 && s.keys.None():
		return now, refresh, fmt.Errorf("%w: %w", ErrNone, person("token.key",
			"账号 "+id.String()+" 的令牌由 Stockbridge 保管，但未设置 TOKEN_KEY（或 TOKEN_KEY_FILE）；设置后执行 "+authorize,
			"the token of "+id.String()+" is ours to keep, but TOKEN_KEY (or TOKEN_KEY_FILE) is not set; set it, then "+authorize))
	case r.Grant == 0:
		return now, refresh, fmt.Errorf("%w: %w", ErrNone, person("token.absent",
			"账号 "+id.String()+" 尚未授权，请执行 "+authorize, id.String()+" is not authorised yet: "+authorize))
	case r.App != account.GetAppKey():
		return now, refresh, person("token.app",
			"账号 "+id.String()+" 的授权属于另一个应用（app_key 已更改），请执行 "+authorize,
			id.String()+" was authorised for another application (app_key has changed): "+authorize)
	}
	p, err := s.keys.open(id, r.Key, r.Box)
	switch {
	case errors.Is(err, errNoKey):
		return now, refresh, person("token.key",
			"保管账号 "+id.String()+" 令牌的密钥 "+r.Key+" 不在 TOKEN_KEY 中；请补上，或重新授权："+authorize,
			"the key "+r.Key+" that the token of "+id.String()+" is sealed with is not in TOKEN_KEY: add it, or authorise again: "+authorize)
	case err != nil:
		return now, refresh, person("token.sealed",
			"账号 "+id.String()+" 保存的令牌无法打开（已损坏或属于其他账号），请重新授权："+authorize,
			"the stored token of "+id.String()+" cannot be opened ("+err.Error()+"): authorise again: "+authorize)
	}
	return Current{secret.New(p.Access), r.Grant}, secret.New(p.Refresh), nil
}

// Put stores the result of a consent, replacing what was there. at is when it was requested.
func (s *Store) Put(ctx context.Context, id ID, app string, g Grant, at time.Time) error {
	_, err := s.update(ctx, id, func(now stored) (record, bool, error) {
		r, err := s.newRecord(id, now.record, g, at)
		r.App, r.Owner, r.Refreshed = app, g.Owner, false
		return r, true, err
	})
	if err != nil {
		return fmt.Errorf("store the token of %s: %w", id, err)
	}
	return nil
}

// newRecord is the record after a grant.
func (s *Store) newRecord(id ID, before record, g Grant, at time.Time) (record, error) {
	r := record{
		App: before.App, Owner: before.Owner, Grant: before.Grant + 1, Renewable: !g.Refresh.Empty(), Refreshed: true,
		GrantedAt: at.UTC(), ExpiresAt: at.Add(g.Life).UTC(),
	}
	if g.Owner != "" {
		r.Owner = g.Owner
	}
	if g.Life <= 0 {
		r.Assumed, r.ExpiresAt = true, at.Add(assumedLife).UTC()
	}
	var err error
	r.Key, r.Box, err = s.keys.seal(id, pair{g.Access.Reveal(), g.Refresh.Reveal()})
	if errors.Is(err, errNoKey) {
		err = fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
			Code: "token.key", ZH: "未设置 TOKEN_KEY（或 TOKEN_KEY_FILE），无法保管令牌", EN: "TOKEN_KEY (or TOKEN_KEY_FILE) is not set: tokens cannot be kept",
		})
	}
	return r, err
}

// storeTimeout is how long a write is retried.
const storeTimeout = 15 * time.Second

// update writes what change makes of the stored record, retrying conflicts; change returns false to leave it. It
// returns what is stored then.
func (s *Store) update(ctx context.Context, id ID, change func(now stored) (record, bool, error)) (stored, error) {
	ctx, cancel := context.WithTimeout(ctx, s.storeTimeout)
	defer cancel()
	var out stored
	var wrote []byte // by an earlier run whose answer was lost
	err := retry.Do(ctx, retry.Policy{For: s.storeTimeout}, func(ctx context.Context) error {
		now, err := s.read(ctx, id)
		if err != nil {
			return err
		}
		if wrote != nil {
			if raw, err := json.Marshal(now.record); err == nil && string(raw) == string(wrote) {
				out = now
				return nil
			}
		}
		r, write, err := change(now)
		if err != nil {
			return fault.Permanent(err)
		}
		if !write {
			out = now
			return nil
		}
		data, err := json.Marshal(r)
		if err != nil {
			return fault.Permanent(err)
		}
		revision, err := s.bucket.Update(ctx, id.key(), data, now.revision)
		if err != nil {
			if !errors.Is(err, bus.ErrRevision) {
				wrote = data
			}
			return err
		}
		s.applyNewer(bus.Value{Key: id.key(), Data: data, Revision: revision})
		out = stored{r, revision}
		return nil
	})
	return out, err
}

// read is the newer of the bucket's answer, which may come from a replica that is behind, and what is known.
func (s *Store) read(ctx context.Context, id ID) (stored, error) {
	v, err := s.bucket.Get(ctx, id.key())
	if errors.Is(err, bus.ErrKeyNotFound) {
		return s.get(id), nil
	}
	if err != nil {
		return stored{}, err
	}
	return s.applyNewer(v), nil
}
