package inkv

import (
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// record is what stands under an entry's key, as JSON.
type record struct {
	ledger.Entry
	// Owner began it last. While the state is INTENT the claim is its until Until; afterwards How says how it ended,
	// so that an answer that was lost can be given again.
	Owner string
	Until time.Time
	How   string `json:",omitempty"`
	// Told is what Begin answered, and Prior what Release returns to; only while INTENT.
	Told          *told        `json:",omitempty"`
	Prior         ledger.State `json:",omitempty"`
	PriorIdentity string       `json:",omitempty"`
	// Sure names the birth under which it is certain that nothing was ever sent; empty when it is not.
	Sure string `json:",omitempty"`
	// Token is that of the last Follow.
	Token string `json:",omitempty"`
}

// told is an answer of Begin.
type told struct {
	Entry ledger.Entry
	Fresh bool
	Born  time.Time
}

// birth says since when this very store remembers.
type birth struct {
	Identity string
	Since    time.Time
}

func (b birth) mark() string { return strconv.FormatInt(b.Since.UnixMicro(), 10) + " " + b.Identity }

// mine: owner began it last and has not said how it ended.
func (r *record) mine(owner string) bool { return r.State == ledger.Intent && r.Owner == owner }

// done: owner has already said that it ended this way, and its answer was lost.
func (r *record) done(owner, how string) bool {
	return r.State != ledger.Intent && r.Owner == owner && r.How == how
}

func (r *record) remember(now time.Time, a ledger.Attempt) {
	a.At = now
	r.Attempts = append(r.Attempts, a)
	if n := len(r.Attempts) - ledger.KeepAttempts; n > 0 {
		r.Attempts = slices.Delete(r.Attempts, 0, n)
	}
}

// changed ends each change.
func (r *record) changed(now time.Time) {
	r.Version++
	r.ChangedAt = now
	if r.FirstClaimedAt.IsZero() {
		r.FirstClaimedAt = now
	}
}

func (r *record) resolved(owner, how string) {
	r.Owner, r.How, r.Until = owner, how, time.Time{}
	r.Told, r.Prior, r.PriorIdentity = nil, ledger.New, ""
}

// begin claims. The caller has made sure that the claim is free; before is the entry as it is to be told.
func (r *record) begin(now time.Time, b ledger.ClaimRequest, born birth, claimFor time.Duration) {
	var fresh bool
	if r.Version == 0 {
		young := born.Since.Add(ledger.EpochMargin)
		fresh = b.First && b.StreamTime.After(young) && b.AuditedAt.After(young)
	} else {
		fresh = r.State == ledger.New && r.Sure == born.mark() // given back unsent, and nothing was forgotten since
	}
	before := r.entry()
	before.Key = b.Key
	before.Attempts = slices.Clone(before.Attempts)
	r.Told = &told{Entry: before, Fresh: fresh, Born: born.Since}
	r.Prior, r.PriorIdentity, r.Sure = r.State, r.Identity, ""
	if fresh {
		r.Sure = born.mark()
	}
	r.State, r.Owner, r.How, r.Until = ledger.Intent, b.Owner, "", now.Add(claimFor)
	r.cover(b)
	r.Tries++
	r.remember(now, ledger.Attempt{Owner: b.Owner, Stream: b.Stream, Seq: b.Seq, What: "begun"})
	r.changed(now)
}

// cover writes what b says of the document.
func (r *record) cover(b ledger.ClaimRequest) {
	r.Key, r.Hash, r.OrderNo, r.Lines = b.Key, b.Hash, b.OrderNo, b.Lines
	r.Revision, r.Shop, r.Warehouse, r.PlatformNos = b.Revision, b.Shop, b.Warehouse, b.PlatformNos
	if b.Trace != "" {
		r.Trace = b.Trace
	}
	if b.Identity != "" {
		r.Identity = b.Identity
	}
}

// accept returns the other number when the entry is accepted under one.
func (r *record) accept(now, due time.Time, b ledger.ClaimRequest, number string, cleaned []ledger.Cleaned) (other string, moved bool) {
	line := ledger.Attempt{Owner: b.Owner, Stream: b.Stream, Seq: b.Seq, What: "accepted", Detail: number}
	if r.Number == number && (r.State == ledger.Accepted || r.State == ledger.Cancelled) {
		return "", false
	}
	if r.State == ledger.Accepted {
		r.remember(now, line)
		r.changed(now)
		return r.Number, true
	}
	r.cover(b)
	r.State, r.Number, r.Cleaned = ledger.Accepted, number, cleaned
	r.Following = &ledger.Following{Due: due}
	r.Lookups, r.UnknownSince, r.Reason, r.Rejection, r.Sure = 0, time.Time{}, fault.Reason{}, fault.Reason{}, ""
	r.resolved(b.Owner, "accepted")
	r.remember(now, line)
	r.changed(now)
	return "", true
}

func (r *record) refuse(now time.Time, owner string, why fault.Reason) (moved bool, err error) {
	if r.done(owner, "refused") {
		return false, nil
	}
	if !r.mine(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.Reason, r.Rejection = ledger.Refused, why, fault.Reason{}
	r.Lookups, r.UnknownSince, r.Sure = 0, time.Time{}, ""
	r.resolved(owner, "refused")
	r.remember(now, ledger.Attempt{Owner: owner, What: "refused", Detail: why.Code})
	r.changed(now)
	return true, nil
}

func (r *record) doubt(now time.Time, c ledger.Claim, why string) (moved bool, err error) {
	switch {
	case r.State == ledger.Accepted, r.State == ledger.Refused, r.State == ledger.Cancelled, r.done(c.Owner, "unknown"):
		return false, nil
	case r.State == ledger.Intent && r.Owner != c.Owner:
		r.Prior, r.PriorIdentity = ledger.Unknown, r.Identity // another is at it: its claim stays
	default:
		r.Key, r.State = c.Key, ledger.Unknown
		if r.Identity == "" {
			r.Identity = c.Identity
		}
		r.resolved(c.Owner, "unknown")
	}
	// Looks that found nothing before now prove nothing of this sending.
	r.Lookups, r.UnknownSince, r.Rejection, r.Sure = 0, now, fault.Reason{}, ""
	r.remember(now, ledger.Attempt{Owner: c.Owner, What: "unknown", Detail: why})
	r.changed(now)
	return true, nil
}

func (r *record) deny(now time.Time, c ledger.Claim, why fault.Reason) (moved bool, err error) {
	switch {
	case r.State == ledger.Accepted, r.State == ledger.Refused, r.State == ledger.Cancelled, r.done(c.Owner, "denied"):
		return false, nil
	case r.State == ledger.Intent && r.Owner != c.Owner:
		r.Prior, r.PriorIdentity = ledger.Unknown, r.Identity // another is at it, and may be sending: this refusal is not the last word
		r.Lookups, r.Rejection = 0, fault.Reason{}
	default:
		r.Key, r.State = c.Key, ledger.Unknown
		if r.Identity == "" {
			r.Identity = c.Identity
		}
		r.Lookups, r.Rejection = 0, why
		r.resolved(c.Owner, "denied")
	}
	r.UnknownSince, r.Sure = now, ""
	r.remember(now, ledger.Attempt{Owner: c.Owner, What: "denied", Detail: why.Code})
	r.changed(now)
	return true, nil
}

func (r *record) absent(now time.Time, owner string) (moved bool, err error) {
	if r.done(owner, "absent") {
		return false, nil
	}
	if !r.mine(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.Sure = ledger.Unknown, ""
	r.Lookups++
	if r.UnknownSince.IsZero() {
		r.UnknownSince = now
	}
	r.resolved(owner, "absent")
	r.remember(now, ledger.Attempt{Owner: owner, What: "absent"})
	r.changed(now)
	return true, nil
}

func (r *record) release(now time.Time, owner, why string) (moved bool, err error) {
	if r.done(owner, "released") {
		return false, nil
	}
	if !r.mine(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.Identity = r.Prior, r.PriorIdentity
	if r.State != ledger.Unknown {
		r.Lookups, r.UnknownSince, r.Rejection = 0, time.Time{}, fault.Reason{}
	}
	if r.State == ledger.New {
		r.Hash = "" // never sent, so any content may begin under this number
	}
	r.resolved(owner, "released")
	r.remember(now, ledger.Attempt{Owner: owner, What: "released", Detail: why})
	r.changed(now)
	return true, nil
}

// resend is for a claim that still stands: after Until another may begin.
func (r *record) resend(now time.Time, owner string) (moved bool, err error) {
	if !r.mine(owner) || !now.Before(r.Until) {
		return false, ledger.ErrLost
	}
	r.Prior, r.PriorIdentity, r.Sure = ledger.Unknown, r.Identity, ""
	r.Lookups, r.UnknownSince, r.Rejection = 0, time.Time{}, fault.Reason{}
	r.changed(now)
	return true, nil
}

func (r *record) follow(now time.Time, version int64, token string, state ledger.State, f ledger.Following) (moved bool, err error) {
	if r.Version != version || r.Version == 0 {
		if r.Version != 0 && r.Token == token {
			return false, nil
		}
		return false, ledger.ErrVersion
	}
	if state == ledger.Cancelled && r.State != ledger.Cancelled {
		r.remember(now, ledger.Attempt{What: "cancelled", Detail: r.Number})
	}
	r.State, r.Following, r.Token = state, &f, token
	r.changed(now)
	return true, nil
}

func (r *record) erase(now time.Time) (found bool, err error) {
	switch {
	case r.Version == 0:
		return false, ledger.ErrNoEntry
	case r.State == ledger.Intent, r.State == ledger.Unknown && r.Hash != ledger.Shadowed:
		return false, ledger.ErrBusy
	}
	for i, a := range r.Attempts {
		if a.Detail != "" && (a.What == "unknown" || a.What == "released") { // others are numbers and codes
			r.Attempts[i].Detail, found = "", true
		}
	}
	for _, why := range []*fault.Reason{&r.Reason, &r.Rejection} {
		if why.RemoteText == "" && (why.ZH != why.EN || why.ZH == "") {
			continue // our own words
		}
		if found, why.RemoteText = true, ""; why.ZH == why.EN {
			why.ZH, why.EN = "", ""
		}
	}
	if found {
		r.changed(now)
	}
	return found, nil
}

// entry is what is told of the record.
func (r *record) entry() ledger.Entry {
	e := r.Entry
	if e.State != ledger.Refused {
		e.Reason = fault.Reason{} // kept for a Release
	}
	return e
}
