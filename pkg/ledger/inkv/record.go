package inkv

import (
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// record is stored under an entry's key, as JSON. Fields keep the JSON keys of version 0.1, and Hash is ledger.StoredHash.
type record struct {
	ledger.Entry
	// Owner claimed it last. While the state is INTENT the claim lasts until Until; afterwards EndedAs says how it
	// ended, so that a lost answer can be given again.
	Owner   string
	Until   time.Time
	EndedAs string `json:"How,omitempty"`
	// Answer is what Claim returned, and Prior the state that Release returns to; only while INTENT.
	Answer        *claimAnswer `json:"Told,omitempty"`
	Prior         ledger.State `json:",omitempty"`
	PriorIdentity string       `json:",omitempty"`
	// NeverSentIn names the epoch in which it is certain that nothing was ever sent; empty when it is not.
	NeverSentIn string `json:"Sure,omitempty"`
	// Token is that of the last Follow.
	Token string `json:",omitempty"`
}

// claimAnswer is an answer of Claim.
type claimAnswer struct {
	Entry      ledger.Entry
	NeverSent  bool      `json:"Fresh"`
	EpochSince time.Time `json:"Born"`
}

// epoch is since when this very store remembers.
type epoch struct {
	Identity string
	Since    time.Time
}

func (e epoch) token() string { return strconv.FormatInt(e.Since.UnixMicro(), 10) + " " + e.Identity }

// claimedBy reports whether owner claimed it last and has not reported the result.
func (r *record) claimedBy(owner string) bool { return r.State == ledger.Intent && r.Owner == owner }

// alreadyEnded reports whether owner has already ended it this way, and the answer was lost.
func (r *record) alreadyEnded(owner, how string) bool {
	return r.State != ledger.Intent && r.Owner == owner && r.EndedAs == how
}

func (r *record) appendAttempt(now time.Time, a ledger.Attempt) {
	a.At = now
	r.Attempts = append(r.Attempts, a)
	if n := len(r.Attempts) - ledger.KeepAttempts; n > 0 {
		r.Attempts = slices.Delete(r.Attempts, 0, n)
	}
}

// touch ends each change.
func (r *record) touch(now time.Time) {
	r.Version++
	r.ChangedAt = now
	if r.FirstClaimedAt.IsZero() && !r.unclaimed() {
		r.FirstClaimedAt = now
	}
}

// unclaimed reports whether there is no entry, or only a wish to cancel made it.
func (r *record) unclaimed() bool { return r.State == ledger.New && r.Tries == 0 }

func (r *record) endClaim(owner, how string) {
	r.Owner, r.EndedAs, r.Until = owner, how, time.Time{}
	r.Answer, r.Prior, r.PriorIdentity = nil, ledger.New, ""
}

// claim claims it. The caller has checked that the claim is free.
func (r *record) claim(now time.Time, b ledger.ClaimRequest, current epoch, claimFor time.Duration) {
	var neverSent bool
	if r.unclaimed() {
		since := current.Since.Add(ledger.EpochMargin)
		neverSent = b.First && b.StreamTime.After(since) && b.AuditedAt.After(since)
	} else {
		neverSent = r.State == ledger.New && r.NeverSentIn == current.token() // released unsent, and nothing was forgotten since
	}
	before := withoutOldReason(r.Entry)
	before.Key = b.Key
	before.Attempts = slices.Clone(before.Attempts)
	r.Answer = &claimAnswer{Entry: before, NeverSent: neverSent, EpochSince: current.Since}
	r.Prior, r.PriorIdentity, r.NeverSentIn = r.State, r.Identity, ""
	if neverSent {
		r.NeverSentIn = current.token()
	}
	r.State, r.Owner, r.EndedAs, r.Until = ledger.Intent, b.Owner, "", now.Add(claimFor)
	r.setDocument(b)
	r.Tries++
	r.appendAttempt(now, ledger.Attempt{Owner: b.Owner, Stream: b.Stream, Seq: b.Seq, What: "begun"})
	r.touch(now)
}

// setDocument copies what b says about the document.
func (r *record) setDocument(b ledger.ClaimRequest) {
	r.Key, r.Hash, r.Group, r.Items = b.Key, b.Hash, b.Group, b.Items
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
		r.appendAttempt(now, line)
		r.touch(now)
		return r.Number, true
	}
	r.setDocument(b)
	r.State, r.Number, r.Cleaned = ledger.Accepted, number, cleaned
	r.Following = &ledger.Following{Due: due}
	r.Lookups, r.UnknownSince, r.Reason, r.Rejection, r.NeverSentIn = 0, time.Time{}, fault.Reason{}, fault.Reason{}, ""
	r.endClaim(b.Owner, "accepted")
	r.appendAttempt(now, line)
	r.touch(now)
	return "", true
}

func (r *record) refuse(now time.Time, owner string, why fault.Reason) (moved bool, err error) {
	if r.alreadyEnded(owner, "refused") {
		return false, nil
	}
	if !r.claimedBy(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.Reason, r.Rejection = ledger.Refused, why, fault.Reason{}
	r.Lookups, r.UnknownSince, r.NeverSentIn = 0, time.Time{}, ""
	r.endClaim(owner, "refused")
	r.appendAttempt(now, ledger.Attempt{Owner: owner, What: "refused", Detail: why.Code})
	r.touch(now)
	return true, nil
}

func (r *record) markUnknown(now time.Time, c ledger.Claim, why string) (moved bool, err error) {
	switch {
	case r.State == ledger.Accepted, r.State == ledger.Refused, r.State == ledger.Cancelled, r.alreadyEnded(c.Owner, "unknown"):
		return false, nil
	case r.State == ledger.Intent && r.Owner != c.Owner:
		r.Prior, r.PriorIdentity = ledger.Unknown, r.Identity // another owner has it: its claim stays
	default:
		r.Key, r.State = c.Key, ledger.Unknown
		if r.Identity == "" {
			r.Identity = c.Identity
		}
		r.endClaim(c.Owner, "unknown")
	}
	// Earlier look-ups prove nothing about this send.
	r.Lookups, r.UnknownSince, r.Rejection, r.NeverSentIn = 0, now, fault.Reason{}, ""
	r.appendAttempt(now, ledger.Attempt{Owner: c.Owner, What: "unknown", Detail: why})
	r.touch(now)
	return true, nil
}

func (r *record) markRejected(now time.Time, c ledger.Claim, why fault.Reason) (moved bool, err error) {
	switch {
	case r.State == ledger.Accepted, r.State == ledger.Refused, r.State == ledger.Cancelled, r.alreadyEnded(c.Owner, "denied"):
		return false, nil
	case r.State == ledger.Intent && r.Owner != c.Owner:
		r.Prior, r.PriorIdentity = ledger.Unknown, r.Identity // another owner has it and may be sending: this refusal is not final
		r.Lookups, r.Rejection = 0, fault.Reason{}
	default:
		r.Key, r.State = c.Key, ledger.Unknown
		if r.Identity == "" {
			r.Identity = c.Identity
		}
		r.Lookups, r.Rejection = 0, why
		r.endClaim(c.Owner, "denied")
	}
	r.UnknownSince, r.NeverSentIn = now, ""
	r.appendAttempt(now, ledger.Attempt{Owner: c.Owner, What: "denied", Detail: why.Code})
	r.touch(now)
	return true, nil
}

func (r *record) markNotFound(now time.Time, owner string) (moved bool, err error) {
	if r.alreadyEnded(owner, "absent") {
		return false, nil
	}
	if !r.claimedBy(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.NeverSentIn = ledger.Unknown, ""
	r.Lookups++
	if r.UnknownSince.IsZero() {
		r.UnknownSince = now
	}
	r.endClaim(owner, "absent")
	r.appendAttempt(now, ledger.Attempt{Owner: owner, What: "absent"})
	r.touch(now)
	return true, nil
}

func (r *record) release(now time.Time, owner, why string) (moved bool, err error) {
	if r.alreadyEnded(owner, "released") {
		return false, nil
	}
	if !r.claimedBy(owner) {
		return false, ledger.ErrLost
	}
	r.State, r.Identity = r.Prior, r.PriorIdentity
	if r.State != ledger.Unknown {
		r.Lookups, r.UnknownSince, r.Rejection = 0, time.Time{}, fault.Reason{}
	}
	if r.State == ledger.New {
		r.Hash = "" // never sent, so any content may be claimed under this number
	}
	r.endClaim(owner, "released")
	r.appendAttempt(now, ledger.Attempt{Owner: owner, What: "released", Detail: why})
	r.touch(now)
	return true, nil
}

// resend needs a claim that has not expired: after Until another may claim it.
func (r *record) resend(now time.Time, owner string) (moved bool, err error) {
	if !r.claimedBy(owner) || !now.Before(r.Until) {
		return false, ledger.ErrLost
	}
	r.Prior, r.PriorIdentity, r.NeverSentIn = ledger.Unknown, r.Identity, ""
	r.Lookups, r.UnknownSince, r.Rejection = 0, time.Time{}, fault.Reason{}
	r.touch(now)
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
		r.appendAttempt(now, ledger.Attempt{What: "cancelled", Detail: r.Number})
	}
	r.State, r.Following, r.Token = state, &f, token
	r.touch(now)
	return true, nil
}

func (r *record) wantCancel(now time.Time, k ledger.Key, c ledger.Cancel) (moved bool) {
	if r.Cancel != nil {
		return false
	}
	c.At = now
	r.Key, r.Cancel = k, &c
	r.appendAttempt(now, ledger.Attempt{What: "cancel.wanted", Detail: c.RequestID})
	r.touch(now)
	return true
}

func (r *record) endCancel(now time.Time, requestID string, state ledger.State) (moved bool, err error) {
	switch {
	case r.Cancel == nil, r.Cancel.RequestID != requestID:
		return false, nil
	case state == ledger.Cancelled && r.State == ledger.Accepted:
		r.State = ledger.Cancelled
		if r.Following != nil {
			f := *r.Following
			f.Due = time.Time{}
			r.Following = &f
		}
		r.appendAttempt(now, ledger.Attempt{What: "cancelled", Detail: r.Number})
	case state == ledger.Cancelled && r.State != ledger.Cancelled:
		return false, ledger.ErrVersion
	}
	r.Cancel = nil
	r.appendAttempt(now, ledger.Attempt{What: "cancel.ended", Detail: requestID})
	r.touch(now)
	return true, nil
}

func (r *record) erase(now time.Time) (found bool, err error) {
	switch {
	case r.Version == 0:
		return false, ledger.ErrNoEntry
	case r.State == ledger.Intent, r.State == ledger.Unknown && !r.external():
		return false, ledger.ErrBusy
	}
	for i, a := range r.Attempts {
		if a.Detail != "" && (a.What == "unknown" || a.What == "released") { // the others hold numbers and codes
			r.Attempts[i].Detail, found = "", true
		}
	}
	for _, why := range []*fault.Reason{&r.Reason, &r.Rejection} {
		if why.RemoteText == "" && (why.ZH != why.EN || why.ZH == "") {
			continue // our own text
		}
		if found, why.RemoteText = true, ""; why.ZH == why.EN {
			why.ZH, why.EN = "", ""
		}
	}
	if found {
		r.touch(now)
	}
	return found, nil
}

// entry is the public part of the record.
func (r *record) entry() ledger.Entry { return public(withoutOldReason(r.Entry)) }

// external reports whether another program sends it.
func (r *record) external() bool {
	origin, _ := ledger.FromStoredHash(r.Hash)
	return origin == ledger.External
}

// withoutOldReason drops the reason that is kept for a Release.
func withoutOldReason(e ledger.Entry) ledger.Entry {
	if e.State != ledger.Refused {
		e.Reason = fault.Reason{}
	}
	return e
}

// public is an entry as callers see it.
func public(e ledger.Entry) ledger.Entry {
	e.Origin, e.Hash = ledger.FromStoredHash(e.Hash)
	return e
}
