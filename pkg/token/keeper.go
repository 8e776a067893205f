package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/secret"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/kinds"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Outcome is the result of a refresh.
type Outcome string

// The outcomes.
const (
	Renewed Outcome = "renewed"
	// Refused: a new consent is needed.
	Refused Outcome = "refused"
	// Lost: no reliable answer came; the tokens may have changed.
	Lost Outcome = "lost"
	// NotSent: nothing happened.
	NotSent Outcome = "not_sent"
)

const (
	// askTimeout is how long an Authority may take.
	askTimeout = 10 * time.Second
	// claimTTL must stay above askTimeout and storeTimeout together. A process that is killed while it asks keeps the
	// others waiting that long.
	claimTTL = 30 * time.Second
	// claimPollEvery is how often a process that waits for a claim's owner checks the bucket itself.
	claimPollEvery = time.Second
	// minRetry and maxRetry bound the pauses after failed refreshes; each pause is twice the one before.
	minRetry = 5 * time.Second
	maxRetry = time.Hour
	// refreshCooldown is how long a refreshed token is not refreshed again because the warehouse refuses it.
	refreshCooldown = 10 * time.Minute
	// tickEvery is how often tokens are checked when none is known to be due.
	tickEvery = 30 * time.Second
	// maxParallel is how many tokens are refreshed at the same time.
	maxParallel = 8
)

// Options of a Keeper. All are required but Renewed, Metrics and Now.
type Options struct {
	// Sellers are the sellers whose tokens are kept.
	Sellers interface{ All() []*seller.Seller }
	// Authority is the authorisation server of an account.
	Authority func(a *sellerv1.Account) (Authority, error)
	// Renewed is called after a token was renewed, so that what waited for it continues.
	Renewed func(ctx context.Context, id ID)
	Metrics *Metrics
	Log     zerolog.Logger
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Keeper renews tokens. Many keepers may work on one bucket: for each token one of them asks at a time.
type Keeper struct {
	*Store
	o Options

	mu sync.Mutex
	// unsaved are records that the bucket did not accept: the warehouse issued new tokens, and only this process has
	// them.
	unsaved map[ID]record
}

// NewKeeper makes a Keeper over s.
func NewKeeper(s *Store, o Options) *Keeper {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Renewed == nil {
		o.Renewed = func(context.Context, ID) {}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Keeper{Store: s, o: o, unsaved: map[ID]record{}}
}

// Run keeps tokens fresh until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		changed := k.changes()
		k.Tick(ctx)
		timer := time.NewTimer(k.wake())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// eachAccount calls do for every account whose token is ours to keep.
func (k *Keeper) eachAccount(do func(id ID, a *sellerv1.Account)) {
	for _, s := range k.o.Sellers.All() {
		for _, a := range s.Setup.Accounts {
			if Ours(a) {
				do(ID{s.Name(), a.Name}, a)
			}
		}
	}
}

// Ours reports whether the account's token is ours to keep and to refresh.
func Ours(a *sellerv1.Account) bool {
	return a.GetTokenOwner() == sellerv1.Account_TOKEN_OWNER_OURS && kinds.Of(a).Capabilities(a).Consent
}

// Tick does what is due now: it refreshes tokens ahead of their end, stores what could not be stored before, and
// seals with the first key what is sealed with another.
func (k *Keeper) Tick(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(maxParallel)
	k.eachAccount(func(id ID, a *sellerv1.Account) {
		r := k.get(id)
		due, can := k.due(id, a, r.record)
		switch {
		case k.save(ctx, id):
		case can && !k.o.Now().Before(due):
			g.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, claimTTL)
				defer cancel()
				_, _ = k.renew(ctx, id, a, nil) // the outcome is logged where it is known
				return nil
			})
		case r.Grant != 0 && !k.keys.None() && r.Key != k.keys.first():
			k.reseal(ctx, id, a)
		}
	})
	_ = g.Wait()
}

// due is when to ask for a new token, as far as this process can.
func (k *Keeper) due(id ID, a *sellerv1.Account, r record) (at time.Time, can bool) {
	if _, _, err := k.open(id, a, r); err != nil || !r.Renewable {
		return at, false
	}
	at = r.refreshAt()
	if r.NextTry.After(at) {
		at = r.NextTry
	}
	if r.Claim != nil && r.Claim.Until.After(at) {
		at = r.Claim.Until
	}
	return at, true
}

// wake is how long nothing is due.
func (k *Keeper) wake() time.Duration {
	now := k.o.Now()
	wait := tickEvery
	k.eachAccount(func(id ID, a *sellerv1.Account) {
		at, can := k.due(id, a, k.get(id).record)
		switch {
		case !can:
		case at.After(now):
			wait = min(wait, at.Sub(now))
		default: // tried just now without a write: the bucket is down
			wait = min(wait, minRetry)
		}
	})
	return wait
}

// Token is Store.Token, including tokens that could not be stored yet.
func (k *Keeper) Token(id ID, account *sellerv1.Account) (Current, error) {
	k.mu.Lock()
	r, unsaved := k.unsaved[id]
	k.mu.Unlock()
	if now := k.get(id); !unsaved || now.Grant >= r.Grant {
		r = now.record
	}
	now, _, err := k.open(id, account, r)
	return now, err
}

// Renew is called when the warehouse refuses used, and returns its replacement: a later grant when there is one, else
// one that is requested now, once for all replicas. An ErrPerson says that there is none.
func (k *Keeper) Renew(ctx context.Context, id ID, account *sellerv1.Account, used Current) (Current, error) {
	if now, err := k.Token(id, account); err == nil && now.Grant > used.Grant {
		return now, nil
	}
	return k.renew(ctx, id, account, &used)
}

// renew asks for a token to replace used, or to replace the present one ahead of its end when used is nil.
func (k *Keeper) renew(ctx context.Context, id ID, account *sellerv1.Account, used *Current) (Current, error) {
	mine := uuid.NewString()
	for first := true; ; first = false {
		if !first {
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return Current{}, err
			}
		}
		r, err := k.read(ctx, id)
		if err != nil {
			return Current{}, fmt.Errorf("read the token of %s: %w", id, err)
		}
		present, refresh, err := k.open(id, account, r.record)
		if err != nil {
			return Current{}, err
		}
		now := k.o.Now()
		switch {
		case r.Claim != nil && r.Claim.By == mine: // written although its answer was lost
			return k.ask(ctx, id, account, r, refresh)
		case used != nil && r.Grant > used.Grant, used == nil && now.Before(r.refreshAt()):
			return present, nil
		case r.Claim.live(now):
			if used == nil {
				return present, nil
			}
			if err := k.await(ctx, id, r.revision, r.Claim.Until.Sub(now)); err != nil {
				return Current{}, fmt.Errorf("wait for the refresh of %s: %w", id, err)
			}
			continue
		}
		if err := k.canAsk(id, r.record, now, used != nil); err != nil {
			return Current{}, err
		}
		next := r.record
		if next.Claim != nil { // its owner vanished, and may have asked
			next.Lost++
			next.Tries++
			k.o.Metrics.refreshes.WithLabelValues(string(Lost)).Inc()
			k.o.Log.Warn().Str("seller", id.Seller).Str("account", id.Account).Msg("the process that refreshed the token vanished; trying again")
		}
		next.Claim = &claim{By: mine, Until: now.Add(claimTTL).UTC()}
		claimed, err := k.replace(ctx, id, next, r.revision)
		if err != nil {
			continue // somebody was faster, or the answer was lost: read again
		}
		return k.ask(ctx, id, account, claimed, refresh)
	}
}

// canAsk is nil when a refresh may be requested.
func (k *Keeper) canAsk(id ID, r record, now time.Time, refused bool) error {
	switch {
	case !r.Renewable:
		return fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
			Code: "token.once", ZH: "账号 " + id.String() + " 的授权不含刷新令牌，需重新授权：" + authorize(id),
			EN: "the consent of " + id.String() + " came without a refresh token; authorise again: " + authorize(id),
		})
	case now.Before(r.NextTry):
		return k.failure(id, r)
	case refused && r.Refreshed && now.Sub(r.GrantedAt) < refreshCooldown && now.Before(r.ExpiresAt):
		return fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
			Code: "token.rejected", ZH: "账号 " + id.String() + " 的令牌刚刷新仍被拒绝；如持续出现，请重新授权：" + authorize(id),
			EN: "the token of " + id.String() + " was just refreshed and is refused all the same; should it go on, authorise again: " + authorize(id),
		})
	}
	return nil
}

func authorize(id ID) string {
	return "bridgectl seller authorize " + id.Seller + " --account " + id.Account
}

// failure is the last failed refresh as an error.
func (k *Keeper) failure(id ID, r record) error {
	if r.Reason != nil {
		return fmt.Errorf("%w: %w", ErrPerson, *r.Reason)
	}
	zh, en := "刷新令牌的请求没有送达", "the refresh did not reach the authorisation server"
	if r.Failed == Lost {
		zh, en = "刷新令牌的应答丢失", "the answer to the refresh was lost"
	}
	return fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
		Code: "token.unrefreshed", ZH: "账号 " + id.String() + " 的令牌失效，" + zh + "，稍后自动重试",
		EN: "the token of " + id.String() + " is refused and " + en + "; it is retried automatically",
	})
}

// ask requests new tokens under a claim, and stores the result even when ctx ends: new tokens must not get lost.
func (k *Keeper) ask(ctx context.Context, id ID, account *sellerv1.Account, claimed stored, refresh secret.Text) (Current, error) {
	at := k.o.Now()
	if claimed.Claim.Until.Sub(at) < askTimeout {
		return Current{}, fmt.Errorf("refresh the token of %s: too little of the claim is left", id)
	}
	ctx = context.WithoutCancel(ctx)
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	g, err := k.refresh(asking, account, refresh)
	cancel()
	if err != nil {
		return k.failed(ctx, id, account, claimed, err)
	}
	if g.Refresh.Empty() {
		g.Refresh = refresh
	}
	r, err := k.newRecord(id, claimed.record, g, at)
	if err != nil {
		return Current{}, err
	}
	k.o.Metrics.refreshes.WithLabelValues(string(Renewed)).Inc()
	k.o.Log.Info().Str("seller", id.Seller).Str("account", id.Account).Time("expires", r.ExpiresAt).Bool("assumed", r.Assumed).Msg("token renewed")
	k.mu.Lock()
	k.unsaved[id] = r
	k.mu.Unlock()
	k.save(ctx, id)
	k.o.Renewed(ctx, id)
	return Current{g.Access, r.Grant}, nil
}

func (k *Keeper) refresh(ctx context.Context, account *sellerv1.Account, refresh secret.Text) (Grant, error) {
	authority, err := k.o.Authority(account)
	if err != nil {
		return Grant{}, err
	}
	return authority.Refresh(ctx, refresh)
}

// save stores what only this process has, and returns whether there was anything. A later grant, by a consent, stays.
func (k *Keeper) save(ctx context.Context, id ID) bool {
	k.mu.Lock()
	r, unsaved := k.unsaved[id]
	k.mu.Unlock()
	if !unsaved {
		return false
	}
	_, err := k.update(ctx, id, func(now stored) (record, bool, error) { return r, now.Grant < r.Grant, nil })
	if err != nil {
		k.o.Log.Error().Err(err).Str("seller", id.Seller).Str("account", id.Account).
			Msg("new tokens could not be stored: only this process has them, do not stop it; trying again")
		return true
	}
	k.mu.Lock()
	if k.unsaved[id].Grant == r.Grant {
		delete(k.unsaved, id)
	}
	k.mu.Unlock()
	return true
}

// failed stores the failure of a refresh. If somebody else obtained new tokens meanwhile, those are returned.
func (k *Keeper) failed(ctx context.Context, id ID, account *sellerv1.Account, claimed stored, why error) (Current, error) {
	now := k.o.Now().UTC()
	next := claimed.record
	next.Claim, next.FailedAt, next.Reason = nil, now, nil
	next.Tries++
	next.NextTry = now.Add(min(minRetry<<min(next.Tries-1, 20), maxRetry))
	switch fault.Of(why) {
	case fault.Refused:
		next.Failed, next.NextTry = Refused, now.Add(maxRetry)
		reason := refusal(id, fault.ReasonOf(why, "token.refused"), next.Lost > 0)
		next.Reason = &reason
	case fault.Unclear:
		next.Failed = Lost
		next.Lost++
	default:
		next.Failed = NotSent
	}
	k.o.Metrics.refreshes.WithLabelValues(string(next.Failed)).Inc()
	log := k.o.Log.Warn()
	if next.Failed == Refused {
		log = k.o.Log.Error().Str("zh", next.Reason.ZH)
	}
	log.Err(why).Str("seller", id.Seller).Str("account", id.Account).Str("outcome", string(next.Failed)).
		Time("expires", next.ExpiresAt).Time("again", next.NextTry).Msg("token not renewed")
	after, err := k.update(ctx, id, func(now stored) (record, bool, error) {
		return next, now.Grant == claimed.Grant && now.Claim != nil && now.Claim.By == claimed.Claim.By, nil
	})
	if err == nil && after.Grant != claimed.Grant {
		fresh, _, err := k.open(id, account, after.record)
		return fresh, err
	}
	return Current{}, k.failure(id, next)
}

func refusal(id ID, said fault.Reason, lost bool) fault.Reason {
	r := fault.Reason{
		Code: "token.refused", RemoteCode: said.RemoteCode, RemoteText: said.RemoteText,
		ZH: "账号 " + id.String() + " 的令牌无法刷新，需商家重新授权：" + authorize(id),
		EN: "the token of " + id.String() + " cannot be refreshed, the merchant has to consent again: " + authorize(id),
	}
	if lost {
		r.ZH += "（此前一次刷新的应答丢失，令牌可能已在那时更换）"
		r.EN += " (the answer to an earlier refresh was lost: it may have changed the tokens)"
	}
	return r
}

// reseal seals a token with the first key.
func (k *Keeper) reseal(ctx context.Context, id ID, account *sellerv1.Account) {
	r := k.get(id)
	present, refresh, err := k.open(id, account, r.record)
	if err != nil {
		return // the caller that needs it gets the error
	}
	next := r.record
	if next.Key, next.Box, err = k.keys.seal(id, pair{present.Secret.Reveal(), refresh.Reveal()}); err != nil {
		return
	}
	if _, err := k.replace(ctx, id, next, r.revision); err != nil && !errors.Is(err, bus.ErrRevision) {
		k.o.Log.Warn().Err(err).Str("seller", id.Seller).Str("account", id.Account).Msg("token not sealed with the new key yet")
	}
}

// replace writes r if the bucket still has the given revision.
func (k *Keeper) replace(ctx context.Context, id ID, r record, revision uint64) (stored, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return stored{}, err
	}
	next, err := k.bucket.Update(ctx, id.key(), data, revision)
	if err != nil {
		return stored{}, err
	}
	k.applyNewer(bus.Value{Key: id.key(), Data: data, Revision: next})
	return stored{r, next}, nil
}

// await waits for a revision later than the given one, at most for the rest of a claim, or a little while.
func (k *Keeper) await(ctx context.Context, id ID, revision uint64, claim time.Duration) error {
	timer := time.NewTimer(min(claim, claimPollEvery))
	defer timer.Stop()
	for {
		changed := k.changes()
		if k.get(id).revision > revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-changed:
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Reader reads tokens and never refreshes one: for read-only programs.
type Reader struct{ *Store }

// Renew returns a later grant than used, or an ErrPerson.
func (r Reader) Renew(_ context.Context, id ID, account *sellerv1.Account, used Current) (Current, error) {
	now, err := r.Token(id, account)
	if err == nil && now.Grant <= used.Grant {
		err = fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
			Code: "token.rejected", ZH: "账号 " + id.String() + " 的令牌被拒绝；工作进程会自动刷新，如不成功请重新授权：" + authorize(id),
			EN: "the token of " + id.String() + " is refused; the workers refresh it, and should that fail authorise again: " + authorize(id),
		})
	}
	return now, err
}
