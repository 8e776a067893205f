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
	sellerv1 "stockbridge/proto/seller/v1"
)

// Outcome is what became of a try to refresh.
type Outcome string

// The outcomes.
const (
	Renewed Outcome = "renewed"
	// Refused: a new consent is needed.
	Refused Outcome = "refused"
	// Lost: no answer came that can be believed; the tokens may have changed.
	Lost Outcome = "lost"
	// NotSent: nothing happened.
	NotSent Outcome = "not_sent"
)

const (
	// askFor is how long an Authority may take.
	askFor = 10 * time.Second
	// claimFor must stay above askFor and storeFor together. A process that is killed while it asks keeps the others
	// waiting for as long.
	claimFor = 30 * time.Second
	// lookEvery is how long whoever waits for a claim's owner trusts that it hears of the end.
	lookEvery = time.Second
	// againFirst and againMost bound the pauses between tries that failed; each is twice the one before.
	againFirst = 5 * time.Second
	againMost  = time.Hour
	// rest is how long a token that was refreshed is not refreshed again because the far side refuses it.
	rest = 10 * time.Minute
	// tickEvery is how often tokens are looked at when nothing tells that one is due.
	tickEvery = 30 * time.Second
	// atOnce is how many tokens are refreshed at the same time.
	atOnce = 8
)

// Options of a Keeper. All are required but Renewed, Metrics and Now.
type Options struct {
	// Sellers are those whose tokens are looked after.
	Sellers interface{ All() []*seller.Seller }
	// Authority is the authorisation server of an account.
	Authority func(a *sellerv1.Account) (Authority, error)
	// Renewed is called after a token was renewed, so that what waited for it goes on.
	Renewed func(ctx context.Context, id ID)
	Metrics *Metrics
	Log     zerolog.Logger
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Keeper renews tokens. Many may work on one bucket: of all of them one asks at a time for each token.
type Keeper struct {
	*Store
	o Options

	mu sync.Mutex
	// unsaved are records that the bucket did not take: the far side gave new tokens, and only this process has them.
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

// each calls do for every account whose token is ours to keep.
func (k *Keeper) each(do func(id ID, a *sellerv1.Account)) {
	for _, s := range k.o.Sellers.All() {
		for _, a := range s.Setup.Accounts {
			if Ours(a) {
				do(ID{s.Name(), a.Name}, a)
			}
		}
	}
}

// Ours tells whether the account's token is ours to keep and to refresh.
func Ours(a *sellerv1.Account) bool {
	return a.GetKind() == sellerv1.Account_KIND_JD && a.GetTokenOwner() == sellerv1.Account_TOKEN_OWNER_OURS
}

// Tick does what is due now: it refreshes tokens ahead of their end, stores what could not be stored, and seals with the
// first key what is sealed with another.
func (k *Keeper) Tick(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	k.each(func(id ID, a *sellerv1.Account) {
		r := k.look(id)
		due, can := k.due(id, a, r.record)
		switch {
		case k.save(ctx, id):
		case can && !k.o.Now().Before(due):
			g.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, claimFor)
				defer cancel()
				_, _ = k.renew(ctx, id, a, nil) // the outcome is told where it is known
				return nil
			})
		case r.Grant != 0 && !k.keys.None() && r.Key != k.keys.first():
			k.reseal(ctx, id, a)
		}
	})
	_ = g.Wait()
}

// due is when it is time to ask for a new token, as far as this process can.
func (k *Keeper) due(id ID, a *sellerv1.Account, r record) (at time.Time, can bool) {
	if _, _, err := k.reveal(id, a, r); err != nil || !r.Renewable {
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
	k.each(func(id ID, a *sellerv1.Account) {
		at, can := k.due(id, a, k.look(id).record)
		switch {
		case !can:
		case at.After(now):
			wait = min(wait, at.Sub(now))
		default: // it was tried just now, and nothing was written: the bucket is away
			wait = min(wait, againFirst)
		}
	})
	return wait
}

// Token is Store.Token, and what could not be stored yet.
func (k *Keeper) Token(id ID, account *sellerv1.Account) (Current, error) {
	k.mu.Lock()
	r, unsaved := k.unsaved[id]
	k.mu.Unlock()
	if now := k.look(id); !unsaved || now.Grant >= r.Grant {
		r = now.record
	}
	now, _, err := k.reveal(id, account, r)
	return now, err
}

// Renew is told that the far side does not take used, and gives what took its place: a later grant when there is one, else
// one that is asked for now, once for all replicas. An ErrPerson says that there is none.
func (k *Keeper) Renew(ctx context.Context, id ID, account *sellerv1.Account, used Current) (Current, error) {
	if now, err := k.Token(id, account); err == nil && now.Grant > used.Grant {
		return now, nil
	}
	return k.renew(ctx, id, account, &used)
}

// renew asks for a token in the place of used, or of the present one ahead of its end when used is nil.
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
		present, refresh, err := k.reveal(id, account, r.record)
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
		if err := k.mayAsk(id, r.record, now, used != nil); err != nil {
			return Current{}, err
		}
		next := r.record
		if next.Claim != nil { // its owner never came back, and may have asked
			next.Lost++
			next.Tries++
			k.o.Metrics.refreshes.WithLabelValues(string(Lost)).Inc()
			k.o.Log.Warn().Str("seller", id.Seller).Str("account", id.Account).Msg("whoever refreshed the token never came back; trying again")
		}
		next.Claim = &claim{By: mine, Until: now.Add(claimFor).UTC()}
		claimed, err := k.swap(ctx, id, next, r.revision)
		if err != nil {
			continue // somebody was faster, or the answer was lost: look again
		}
		return k.ask(ctx, id, account, claimed, refresh)
	}
}

// mayAsk is nil when a refresh may be asked for.
func (k *Keeper) mayAsk(id ID, r record, now time.Time, refused bool) error {
	switch {
	case !r.Renewable:
		return fmt.Errorf("%w: %w", ErrPerson, fault.Reason{
			Code: "token.once", ZH: "账号 " + id.String() + " 的授权不含刷新令牌，需重新授权：" + authorize(id),
			EN: "the consent of " + id.String() + " came without a refresh token; authorise again: " + authorize(id),
		})
	case now.Before(r.NextTry):
		return k.failure(id, r)
	case refused && r.Refreshed && now.Sub(r.GrantedAt) < rest && now.Before(r.ExpiresAt):
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

// failure is the last failed try as an error.
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
		EN: "the token of " + id.String() + " is refused and " + en + "; it is tried again by itself",
	})
}

// ask asks for new tokens under a claim, and stores what came of it even when ctx ends: new tokens must not get lost.
func (k *Keeper) ask(ctx context.Context, id ID, account *sellerv1.Account, claimed stored, refresh secret.Text) (Current, error) {
	at := k.o.Now()
	if claimed.Claim.Until.Sub(at) < askFor {
		return Current{}, fmt.Errorf("refresh the token of %s: too little of the claim is left", id)
	}
	ctx = context.WithoutCancel(ctx)
	asking, cancel := context.WithTimeout(ctx, askFor)
	g, err := k.refresh(asking, account, refresh)
	cancel()
	if err != nil {
		return k.failed(ctx, id, account, claimed, err)
	}
	if g.Refresh.Empty() {
		g.Refresh = refresh
	}
	r, err := k.granted(id, claimed.record, g, at)
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

// save stores what only this process has, and says whether there was anything. A grant that came later, by a consent,
// stays.
func (k *Keeper) save(ctx context.Context, id ID) bool {
	k.mu.Lock()
	r, unsaved := k.unsaved[id]
	k.mu.Unlock()
	if !unsaved {
		return false
	}
	_, err := k.put(ctx, id, func(now stored) (record, bool, error) { return r, now.Grant < r.Grant, nil })
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

// failed stores what became of a try. Should somebody else have brought new tokens meanwhile, those are the answer.
func (k *Keeper) failed(ctx context.Context, id ID, account *sellerv1.Account, claimed stored, why error) (Current, error) {
	now := k.o.Now().UTC()
	next := claimed.record
	next.Claim, next.FailedAt, next.Reason = nil, now, nil
	next.Tries++
	next.NextTry = now.Add(min(againFirst<<min(next.Tries-1, 20), againMost))
	switch fault.Of(why) {
	case fault.Refused:
		next.Failed, next.NextTry = Refused, now.Add(againMost)
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
	after, err := k.put(ctx, id, func(now stored) (record, bool, error) {
		return next, now.Grant == claimed.Grant && now.Claim != nil && now.Claim.By == claimed.Claim.By, nil
	})
	if err == nil && after.Grant != claimed.Grant {
		fresh, _, err := k.reveal(id, account, after.record)
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
	r := k.look(id)
	present, refresh, err := k.reveal(id, account, r.record)
	if err != nil {
		return // whoever needs it is told
	}
	next := r.record
	if next.Key, next.Box, err = k.keys.seal(id, pair{present.Secret.Reveal(), refresh.Reveal()}); err != nil {
		return
	}
	if _, err := k.swap(ctx, id, next, r.revision); err != nil && !errors.Is(err, bus.ErrRevision) {
		k.o.Log.Warn().Err(err).Str("seller", id.Seller).Str("account", id.Account).Msg("token not sealed with the new key yet")
	}
}

// swap writes r if the bucket still has the given revision.
func (k *Keeper) swap(ctx context.Context, id ID, r record, revision uint64) (stored, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return stored{}, err
	}
	next, err := k.bucket.Update(ctx, id.key(), data, revision)
	if err != nil {
		return stored{}, err
	}
	k.take(bus.Value{Key: id.key(), Data: data, Revision: next})
	return stored{r, next}, nil
}

// await waits until anything is known beyond the revision, or for as long as a claim lasts, or a little while.
func (k *Keeper) await(ctx context.Context, id ID, revision uint64, claim time.Duration) error {
	timer := time.NewTimer(min(claim, lookEvery))
	defer timer.Stop()
	for {
		changed := k.changes()
		if k.look(id).revision > revision {
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

// Reader reads tokens and never refreshes one: for those who look, not for those who work.
type Reader struct{ *Store }

// Renew gives a later grant than used, or an ErrPerson.
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
