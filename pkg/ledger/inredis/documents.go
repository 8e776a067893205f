package inredis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

const (
	// keepSettled is how long an entry stays after it is settled.
	keepSettled = 90 * 24 * time.Hour
	// maxFound is how many entries Find returns.
	maxFound = 20
	// postponedAtOnce is how many entries one run of a script postpones.
	postponedAtOnce = 1000
)

func sellerKey(seller string) string { return prefix + "{" + seller + "}:" }

// covering does a claim or an accept, which share these arguments; more are the call's own.
func (l *Ledger) covering(ctx context.Context, op string, b ledger.ClaimRequest, more ...any) (answer, error) {
	lines, err := asList(b.Items)
	if err != nil {
		return nil, err
	}
	platforms, err := asList(b.PlatformNos)
	if err != nil {
		return nil, err
	}
	args := append(make([]any, 0, 20),
		b.Key.Kind, b.Key.No, b.Owner, ledger.StoredHash(b.Origin, b.Hash), b.Group, lines, b.Revision, b.Shop, b.Warehouse, b.Stream, b.Seq, b.Trace, b.Identity, platforms)
	return l.document(ctx, b.Key.Seller, op, append(args, more...)...)
}

// Claim implements ledger.Documents.
func (l *Ledger) Claim(ctx context.Context, b ledger.ClaimRequest) (ledger.Claimed, error) {
	r, err := l.covering(ctx, "claim", b, b.Supersedes, b.First, b.StreamTime.UnixMicro(), b.AuditedAt.UnixMicro(), b.AnyIdentity)
	if err != nil {
		return ledger.Claimed{}, wrap("claim", b.Key, err)
	}
	out, err := decodeClaimed(b, r)
	return out, wrap("claim", b.Key, err)
}

func decodeClaimed(b ledger.ClaimRequest, r answer) (out ledger.Claimed, err error) {
	switch what := r.text(0); what {
	case "busy":
		return out, ledger.ErrBusy
	case "line":
		by := r.text(2)
		return out, &ledger.ItemTaken{Group: b.Group, Item: r.text(1), By: by, Superseded: by == b.Supersedes}
	case "known", "hash", "identity":
		out.EpochSince, out.At = r.time(1), r.time(3)
		out.Entry, err = r.entry(2, b.Key)
		switch {
		case err != nil:
		case what == "hash":
			err = ledger.ErrHash
		case what == "identity":
			err = ledger.ErrIdentity
		}
		return out, err
	default:
		left := time.Duration(r.int(1)) * time.Microsecond
		out.EpochSince, out.NeverSent, out.At = r.time(2), r.text(3) != "", r.time(5)
		out.Claim = ledger.Claim{Key: b.Key, Owner: b.Owner, Identity: b.Identity, Until: out.At.Add(left)}
		out.Sharing = r.sharing(6)
		out.Entry, err = r.entry(4, b.Key)
		return out, err
	}
}

// Accept implements ledger.Documents.
func (l *Ledger) Accept(ctx context.Context, b ledger.ClaimRequest, number string, cleaned []ledger.Cleaned, now time.Time) error {
	following, err := asJSON(ledger.Following{Due: now.UTC()})
	if err != nil {
		return wrap("accept", b.Key, err)
	}
	clean := ""
	if len(cleaned) > 0 {
		if clean, err = asJSON(cleaned); err != nil {
			return wrap("accept", b.Key, err)
		}
	}
	r, err := l.covering(ctx, "accept", b, number, clean, following, now.UnixMilli())
	if err == nil && r.text(0) == "taken" {
		err = &ledger.NumberTaken{Number: number, By: r.text(1)}
	}
	if err == nil && r.text(0) == "twice" {
		err = fmt.Errorf("%w: accepted as %s before, now as %s", ledger.ErrLost, r.text(1), number)
	}
	return wrap("accept", b.Key, err)
}

// Refuse implements ledger.Documents.
func (l *Ledger) Refuse(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	reason, err := asJSON(why)
	if err == nil {
		_, err = l.resolve(ctx, "refuse", c, reason, why.Code)
	}
	return wrap("refuse", c.Key, err)
}

// MarkUnknown implements ledger.Documents.
func (l *Ledger) MarkUnknown(ctx context.Context, c ledger.Claim, why string) error {
	_, err := l.resolve(ctx, "mark_unknown", c, why, c.Identity)
	return wrap("mark unknown", c.Key, err)
}

// MarkRejected implements ledger.Documents.
func (l *Ledger) MarkRejected(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	reason, err := asJSON(why)
	if err == nil {
		_, err = l.resolve(ctx, "mark_rejected", c, reason, why.Code, c.Identity)
	}
	return wrap("mark rejected", c.Key, err)
}

// MarkNotFound implements ledger.Documents.
func (l *Ledger) MarkNotFound(ctx context.Context, c ledger.Claim) (lookups int, unknownFor time.Duration, err error) {
	r, err := l.resolve(ctx, "mark_not_found", c)
	if err != nil {
		return 0, 0, wrap("mark not found", c.Key, err)
	}
	return int(r.int(1)), r.time(3).Sub(r.time(2)), nil
}

// Release implements ledger.Documents.
func (l *Ledger) Release(ctx context.Context, c ledger.Claim, why string) error {
	_, err := l.resolve(ctx, "release", c, why)
	return wrap("release", c.Key, err)
}

// Resend implements ledger.Documents.
func (l *Ledger) Resend(ctx context.Context, c ledger.Claim) error {
	_, err := l.resolve(ctx, "resend", c)
	return wrap("resend", c.Key, err)
}

// resolve does a call that ends or changes a claim; args follow kind, number and owner.
func (l *Ledger) resolve(ctx context.Context, op string, c ledger.Claim, args ...any) (answer, error) {
	r, err := l.document(ctx, c.Key.Seller, op, append([]any{c.Key.Kind, c.Key.No, c.Owner}, args...)...)
	if err == nil && r.text(0) == "lost" {
		err = ledger.ErrLost
	}
	return r, err
}

// document does a call about documents of seller.
func (l *Ledger) document(ctx context.Context, seller, op string, args ...any) (answer, error) {
	return l.calls.do(ctx, target{l.scripts.document, sellerKey(seller)}, op, l.clock(), args...)
}

// Get implements ledger.Documents.
func (l *Ledger) Get(ctx context.Context, k ledger.Key) (ledger.Entry, error) {
	fields, err := l.client.HGetAll(ctx, sellerKey(k.Seller)+"entry:"+k.Kind+":"+k.No).Result()
	if err == nil && len(fields) == 0 {
		err = ledger.ErrNoEntry
	}
	if err != nil {
		return ledger.Entry{}, wrap("get", k, err)
	}
	e, err := decode(k, fields)
	return e, wrap("get", k, err)
}

// Find implements ledger.Documents.
func (l *Ledger) Find(ctx context.Context, seller, no string) ([]ledger.Entry, error) {
	rows, err := l.document(ctx, seller, "find", no, maxFound)
	if err != nil {
		return nil, fmt.Errorf("find %s/%s: %w", seller, no, err)
	}
	return entries(rows, func(r answer) (ledger.Entry, error) {
		return r.entry(2, ledger.Key{Seller: seller, Kind: r.text(0), No: r.text(1)})
	})
}

// Due implements ledger.Documents.
func (l *Ledger) Due(ctx context.Context, seller, kind string, now time.Time, limit int) ([]ledger.Entry, error) {
	rows, err := l.document(ctx, seller, "due", kind, now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("list due %s/%s: %w", seller, kind, err)
	}
	return entries(rows, func(r answer) (ledger.Entry, error) {
		e, err := r.entry(2, ledger.Key{Seller: seller, Kind: kind, No: r.text(0)})
		return r.dueAt(1, e), err
	})
}

// TakeDue implements ledger.Documents.
func (l *Ledger) TakeDue(ctx context.Context, t ledger.Take) ([]ledger.Entry, error) {
	room, before := "", ""
	if t.Room != nil {
		var err error
		if room, err = asJSON(t.Room); err != nil {
			return nil, fmt.Errorf("take due %s/%s: %w", t.Seller, t.Kind, err)
		}
	}
	if !t.Before.IsZero() {
		before = formatMillis(t.Before)
	}
	rows, err := l.document(ctx, t.Seller, "take", t.Kind, t.Due.UnixMilli(), t.Limit, takenUntil(t.Until), room, before)
	if err != nil {
		return nil, fmt.Errorf("take due %s/%s: %w", t.Seller, t.Kind, err)
	}
	return entries(rows, func(r answer) (ledger.Entry, error) {
		values, _ := r[2].([]any)
		fields := make(map[string]string, len(values))
		for i, name := range followedFields {
			fields[name] = answer(values).text(i)
		}
		e, err := decode(ledger.Key{Seller: t.Seller, Kind: t.Kind, No: r.text(0)}, fields)
		return r.dueAt(1, e.Followed()), err
	})
}

// takenUntil is the score of what is taken until then: half a millisecond before, which no due time is.
func takenUntil(t time.Time) string { return strconv.FormatInt(t.UnixMilli()-1, 10) + ".5" }

// dueAt is e with the due time at place i, which may have been moved without writing the entry.
func (r answer) dueAt(i int, e ledger.Entry) ledger.Entry {
	millis, _, taken := strings.Cut(r.text(i), ".")
	if n, err := strconv.ParseInt(millis, 10, 64); err == nil && e.Following != nil {
		if taken {
			n++
		}
		e.Following.Due = time.UnixMilli(n).UTC()
	}
	return e
}

// Postpone implements ledger.Documents.
func (l *Ledger) Postpone(ctx context.Context, seller, kind string, until time.Time, later []ledger.Later) error {
	for some := range slices.Chunk(later, postponedAtOnce) {
		texts, first := make([]string, 0, 2*len(some)), some[0].Due
		for _, e := range some {
			texts = append(texts, e.No, formatMillis(e.Due))
			if e.Due.Before(first) {
				first = e.Due
			}
		}
		list, err := asJSON(texts)
		if err == nil {
			_, err = l.document(ctx, seller, "postpone", kind, takenUntil(until), list, formatMillis(first))
		}
		if err != nil {
			return fmt.Errorf("postpone %s/%s: %w", seller, kind, err)
		}
	}
	return nil
}

// Refusals implements ledger.Documents.
func (l *Ledger) Refusals(ctx context.Context, seller, kind string, from time.Time, limit int) ([]ledger.Entry, error) {
	rows, err := l.document(ctx, seller, "refusals", kind, max(from.UnixMicro(), 0), limit)
	if err != nil {
		return nil, fmt.Errorf("list refusals %s/%s: %w", seller, kind, err)
	}
	return entries(rows, func(r answer) (ledger.Entry, error) {
		return r.entry(1, ledger.Key{Seller: seller, Kind: kind, No: r.text(0)})
	})
}

func entries(rows []any, read func(answer) (ledger.Entry, error)) ([]ledger.Entry, error) {
	var out []ledger.Entry
	for _, row := range rows {
		cells, _ := row.([]any)
		e, err := read(cells)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Follow implements ledger.Documents.
func (l *Ledger) Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	due := "" // not followed
	if !f.Due.IsZero() {
		due = formatMillis(f.Due)
	}
	following, err := asJSON(f)
	if err != nil {
		return wrap("follow", e.Key, err)
	}
	waybills, err := asList(f.Numbers)
	if err != nil {
		return wrap("follow", e.Key, err)
	}
	r, err := l.document(ctx, e.Key.Seller, "follow", e.Key.Kind, e.Key.No, e.Version, string(state), rand.Text(), following, due, waybills)
	if err == nil && r.text(0) == "moved" {
		err = ledger.ErrVersion
	}
	return wrap("follow", e.Key, err)
}

// BeginEpoch implements ledger.Documents.
func (l *Ledger) BeginEpoch(ctx context.Context, seller string) error {
	if _, err := l.document(ctx, seller, "begin_epoch", "", ""); err != nil {
		return fmt.Errorf("ledger begin epoch %s: %w", seller, err)
	}
	return nil
}

// WantCancel implements ledger.Documents.
func (l *Ledger) WantCancel(ctx context.Context, k ledger.Key, c ledger.Cancel) (ledger.Entry, error) {
	r, err := l.document(ctx, k.Seller, "want_cancel", k.Kind, k.No, c.RequestID, c.Cause)
	if err != nil {
		return ledger.Entry{}, wrap("want cancelled", k, err)
	}
	e, err := r.entry(1, k)
	return e, wrap("want cancelled", k, err)
}

// EndCancel implements ledger.Documents.
func (l *Ledger) EndCancel(ctx context.Context, k ledger.Key, requestID string, state ledger.State) error {
	if err := ledger.ValidCancelEnd(state); err != nil {
		return wrap("end cancel", k, err)
	}
	r, err := l.document(ctx, k.Seller, "end_cancel", k.Kind, k.No, requestID, string(state))
	if err == nil && r.text(0) == "moved" {
		err = ledger.ErrVersion
	}
	return wrap("end cancel", k, err)
}

// Erase implements ledger.Documents.
func (l *Ledger) Erase(ctx context.Context, k ledger.Key) error {
	r, err := l.document(ctx, k.Seller, "erase", k.Kind, k.No)
	if err == nil {
		switch r.text(0) {
		case "none":
			err = ledger.ErrNoEntry
		case "busy":
			err = ledger.ErrBusy
		}
	}
	return wrap("erase", k, err)
}

// CountFollowed implements ledger.Documents.
func (l *Ledger) CountFollowed(ctx context.Context, kind string, sellers ...string) ([]ledger.Count, error) {
	counts, err := l.counts(ctx, "due:"+kind, sellers, time.UnixMilli)
	if err != nil {
		return nil, fmt.Errorf("count followed %s: %w", kind, err)
	}
	return counts, nil
}

// CountUnknown implements ledger.Documents.
func (l *Ledger) CountUnknown(ctx context.Context, kind string, sellers ...string) ([]ledger.Count, error) {
	counts, err := l.counts(ctx, "doubt:"+kind, sellers, time.UnixMicro)
	if err != nil {
		return nil, fmt.Errorf("count unknown %s: %w", kind, err)
	}
	return counts, nil
}

// readTogether is how many keys are read in a round trip that only reads. The server does nothing else meanwhile: some 2 µs a key.
const readTogether = 500

// counts reads how many members a sorted set of each seller has, and the lowest score: first all scores, then the sizes of
// the sets that are there, because most sellers have none.
func (l *Ledger) counts(ctx context.Context, set string, sellers []string, at func(int64) time.Time) ([]ledger.Count, error) {
	counts := make([]ledger.Count, len(sellers))
	var some []int // sellers that have the set
	for from := 0; from < len(sellers); from += readTogether {
		part := sellers[from:min(from+readTogether, len(sellers))]
		first := make([]*redis.ZSliceCmd, len(part))
		if _, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, seller := range part {
				first[i] = p.ZRangeWithScores(ctx, sellerKey(seller)+set, 0, 0)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		for i, f := range first {
			if of := f.Val(); len(of) > 0 {
				counts[from+i].Since = at(int64(math.Ceil(of[0].Score))).UTC() // half a millisecond less says that it is taken
				some = append(some, from+i)
			}
		}
	}
	for part := range slices.Chunk(some, readTogether) {
		size := make([]*redis.IntCmd, len(part))
		if _, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, of := range part {
				size[i] = p.ZCard(ctx, sellerKey(sellers[of])+set)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		for i, of := range part {
			if counts[of].N = int(size[i].Val()); counts[of].N == 0 { // the last one left in between
				counts[of] = ledger.Count{}
			}
		}
	}
	return counts, nil
}

// unfinishedPage is how many entries EachUnfinished reads in a round trip.
const unfinishedPage = 200

// EachUnfinished implements ledger.Documents.
func (l *Ledger) EachUnfinished(ctx context.Context, seller, kind string, each func(ledger.Entry) error) error {
	of := ledger.Key{Seller: seller, Kind: kind}
	var nos []string
	for _, set := range []string{"due:", "doubt:"} {
		some, err := l.client.ZRange(ctx, sellerKey(seller)+set+kind, 0, -1).Result()
		if err != nil {
			return wrap("list unfinished", of, err)
		}
		nos = append(nos, some...)
	}
	slices.Sort(nos)
	for page := range slices.Chunk(slices.Compact(nos), unfinishedPage) {
		read := make([]*redis.MapStringStringCmd, len(page))
		if _, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, no := range page {
				read[i] = p.HGetAll(ctx, sellerKey(seller)+"entry:"+kind+":"+no)
			}
			return nil
		}); err != nil {
			return wrap("list unfinished", of, err)
		}
		for i, no := range page {
			if len(read[i].Val()) == 0 {
				continue
			}
			e, err := decode(ledger.Key{Seller: seller, Kind: kind, No: no}, read[i].Val())
			if err != nil {
				return wrap("list unfinished", of, err)
			}
			if err := each(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// answer is what a script returned.
type answer []any

func (r answer) text(i int) string {
	if i >= len(r) {
		return ""
	}
	s, _ := r[i].(string)
	return s
}

func (r answer) int(i int) int64 {
	n, _ := strconv.ParseInt(r.text(i), 10, 64)
	return n
}

func (r answer) time(i int) time.Time { return parseMicros(r.text(i)) }

func (r answer) micros(i int) time.Duration { return time.Duration(r.int(i)) * time.Microsecond }

// sharing reads the documents of other orders that a claim reports.
func (r answer) sharing(i int) (out []ledger.Sharing) {
	if i >= len(r) {
		return nil
	}
	flat, _ := r[i].([]any)
	for i := 0; i+2 < len(flat); i += 3 {
		out = append(out, ledger.Sharing{PlatformNo: answer(flat).text(i), Group: answer(flat).text(i + 1), No: answer(flat).text(i + 2)})
	}
	return ledger.SortSharing(out)
}

// entry decodes an entry from the flat list of its fields.
func (r answer) entry(i int, k ledger.Key) (ledger.Entry, error) {
	fields := map[string]string{}
	if i < len(r) {
		flat, _ := r[i].([]any)
		if len(flat) == 0 { // most are new
			return ledger.Entry{Key: k}, nil
		}
		for i := 0; i+1 < len(flat); i += 2 {
			fields[answer(flat).text(i)] = answer(flat).text(i + 1)
		}
	}
	return decode(k, fields)
}

// decode decodes an entry from its hash.
func decode(k ledger.Key, f map[string]string) (ledger.Entry, error) {
	number := func(field string) int64 {
		n, _ := strconv.ParseInt(f[field], 10, 64)
		return n
	}
	e := ledger.Entry{
		Key: k, State: ledger.State(f["state"]), Group: f["order"], Number: f["number"],
		Revision: number("revision"), Shop: f["shop"], Warehouse: f["warehouse"], Identity: f["identity"],
		Tries: int(number("tries")), Lookups: int(number("looks")), UnknownSince: parseMicros(f["doubt"]),
		FirstClaimedAt: parseMicros(f["begun"]), ChangedAt: parseMicros(f["changed"]), Version: number("version"),
		Trace: f["trace"],
	}
	e.Origin, e.Hash = ledger.FromStoredHash(f["hash"])
	var faults []error
	read := func(field string, into any) {
		if raw := f[field]; raw != "" {
			if err := json.Unmarshal([]byte(raw), into); err != nil {
				faults = append(faults, fmt.Errorf("read %s of %s: %w", field, k, err))
			}
		}
	}
	read("lines", &e.Items)
	read("platforms", &e.PlatformNos)
	read("cleaned", &e.Cleaned)
	read("denied", &e.Rejection)
	read("following", &e.Following)
	if e.Following != nil && f["due"] == "" { // end_cancel.lua empties only this: Lua would round what the list contains
		e.Following.Due = time.Time{}
	}
	var wish struct{ Request, Cause, At string }
	if read("cancel", &wish); wish.At != "" {
		e.Cancel = &ledger.Cancel{RequestID: wish.Request, Cause: wish.Cause, At: parseMicros(wish.At)}
	}
	if e.State == ledger.Refused {
		read("reason", &e.Reason)
	}
	for line := range strings.SplitSeq(f["history"], "\n") {
		if line == "" {
			continue
		}
		var h struct{ At, Owner, Stream, Seq, What, Detail string }
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			faults = append(faults, fmt.Errorf("read history of %s: %w", k, err))
			continue
		}
		seq, _ := strconv.ParseUint(h.Seq, 10, 64)
		e.Attempts = append(e.Attempts, ledger.Attempt{
			At: parseMicros(h.At), Owner: h.Owner, Stream: h.Stream, Seq: seq, What: h.What, Detail: h.Detail,
		})
	}
	return e, errors.Join(faults...)
}

func parseMicros(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func formatMillis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// asList is a list as JSON, "" when it is empty.
func asList(list []string) (string, error) {
	if len(list) == 0 {
		return "", nil
	}
	return asJSON(list)
}

func asJSON(v any) (string, error) {
	raw, err := json.Marshal(v)
	return string(raw), err
}
