package bus

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/trace"
)

const (
	natsPrefix = "Nats-"
	// maxError bounds the error text of a dead letter, bytes.
	maxError = 4 << 10
	// maxText bounds each text of a reason, bytes.
	maxText = 1 << 10
	// maxWrapped bounds the publisher's headers on an internal message, bytes; with ours they stay below the server's
	// 64 KiB.
	maxWrapped = 40 << 10
	// headerDropped names the headers that did not fit.
	headerDropped = event.OwnPrefix + "Dropped"
)

// envelope is what the headers of an internal message say: those of the original event, and ours about it. A delayed
// message, a dead letter, a replayed, a redelivered and a migrated one each fill in a part. Only this file reads and
// writes our headers. Messages of other builds are in flight during an upgrade: names and values must stay, and what is
// missing or damaged counts as not said.
type envelope struct {
	// original are the headers that the publisher sent.
	original nats.Header
	from     origin
	// trace is added to the original's headers if they carry none that is valid. It is not read.
	trace string
	// delays is how often it was delayed.
	delays int
	sent   sending
	// released are the causes that operators let it pass; earlier are the times it was a dead letter before, as JSON
	// (Earlier).
	released, earlier []string
	verdict           verdict
}

// origin is where the original event is stored.
type origin struct {
	subject string
	place   Place
	// known: the headers name the sequence.
	known bool
}

func (o origin) same(p Place) bool {
	return o.known && o.place.Stream == p.Stream && o.place.Seq == p.Seq && o.place.Stored.Equal(p.Stored)
}

// sending is how a message came to RETRY other than by a delay.
type sending struct {
	// replayed is the number of the dead letter that it was replayed from, round the one in which it was redelivered
	// from its stream, both 0 for none; call is the Send that replayed it.
	replayed uint64
	round    int
	call     string
	who, why string
}

// verdict is why a message is a dead letter; class is "" when it is none.
type verdict struct {
	seller, key        string
	class, cause, text string
	reason             fault.Reason
	attempts           int
	first, last        time.Time
}

// decodeEnvelope reads the headers of an internal message.
func decodeEnvelope(h nats.Header) (e envelope) {
	e.original = unwrapHeaders(h)
	seq, err := strconv.ParseUint(h.Get(event.HeaderOriginSeq), 10, 64)
	e.from = origin{h.Get(event.HeaderOriginSubject), Place{h.Get(event.HeaderOriginStream), seq, timeIn(h, event.HeaderOriginTime)}, err == nil}
	e.delays, _ = strconv.Atoi(h.Get(event.HeaderDelays))
	e.sent = sending{call: h.Get(event.HeaderCall), who: h.Get(event.HeaderBy), why: h.Get(event.HeaderWhy)}
	e.sent.replayed, _ = strconv.ParseUint(h.Get(event.HeaderReplay), 10, 64)
	e.sent.round, _ = strconv.Atoi(h.Get(event.HeaderRedelivered))
	e.released, e.earlier = h.Values(event.HeaderReleased), h.Values(event.HeaderEarlier)
	e.verdict = verdict{
		seller: h.Get(event.HeaderSeller), key: h.Get(event.HeaderKey),
		class: h.Get(event.HeaderClass), cause: h.Get(event.HeaderCause), text: h.Get(event.HeaderError),
		reason: reasonFrom(h.Get(event.HeaderReason)), first: timeIn(h, event.HeaderFirst), last: timeIn(h, event.HeaderLast),
	}
	e.verdict.attempts, _ = strconv.Atoi(h.Get(event.HeaderAttempts))
	return e
}

// decodeRetry is decodeEnvelope for a message of RETRY, which is on subject and at own there: both stand in for what
// its headers do not say of the original.
func decodeRetry(h nats.Header, subject string, own Place) envelope {
	e := decodeEnvelope(h)
	if !e.from.known {
		e.from = origin{subject, own, true}
	}
	if e.from.place.Stored.IsZero() {
		e.from.place.Stored = own.Stored
	}
	return e
}

// message is a copy of the original that carries the envelope.
func (e envelope) message(subject string, body []byte) *nats.Msg {
	h := wrapHeaders(e.original)
	e.writeTo(h)
	if e.trace != "" && !trace.Parse(headerOf(h, event.HeaderTrace)).IsValid() {
		h.Set(event.HeaderTrace, e.trace)
	}
	return &nats.Msg{Subject: subject, Header: h, Data: body}
}

// writeTo makes our headers those of the envelope, and leaves the original's alone.
func (e envelope) writeTo(h nats.Header) {
	values := map[string][]string{event.HeaderReleased: e.released, event.HeaderEarlier: e.earlier}
	texts := map[string]string{
		event.HeaderOriginSubject: e.from.subject, event.HeaderOriginStream: e.from.place.Stream, event.HeaderOriginTime: timeText(e.from.place.Stored),
		event.HeaderDelays: numberText(e.delays), event.HeaderReplay: numberText(e.sent.replayed), event.HeaderRedelivered: numberText(e.sent.round),
		event.HeaderCall: e.sent.call, event.HeaderBy: truncate(e.sent.who, maxText), event.HeaderWhy: truncate(e.sent.why, maxText),
	}
	if e.from.known {
		texts[event.HeaderOriginSeq] = strconv.FormatUint(e.from.place.Seq, 10)
	}
	if v := e.verdict; v.class != "" {
		maps.Copy(texts, map[string]string{
			event.HeaderSeller: v.seller, event.HeaderKey: truncate(v.key, maxText),
			event.HeaderClass: v.class, event.HeaderCause: truncate(v.cause, maxText), event.HeaderError: truncate(v.text, maxError),
			event.HeaderReason: reasonText(v.reason), event.HeaderAttempts: numberText(v.attempts),
			event.HeaderFirst: timeText(v.first), event.HeaderLast: timeText(v.last),
		})
	}
	for name, text := range texts {
		values[name] = nil
		if text != "" {
			values[name] = []string{text}
		}
	}
	for name, v := range values {
		delete(h, name)
		if len(v) > 0 {
			h[name] = v
		}
	}
}

// token identifies the original, and by which sending it came, as one token of a subject. The time of storing separates
// two messages with the same sequence, the second stored after the stream was restored from an older copy.
func (e envelope) token() string {
	token := e.from.place.token()
	if e.sent.replayed != 0 {
		token += "-r" + strconv.FormatUint(e.sent.replayed, 10)
	}
	if e.sent.round != 0 {
		token += "-a" + strconv.Itoa(e.sent.round)
	}
	return token
}

func (p Place) token() string {
	return p.Stream + "-" + strconv.FormatUint(p.Seq, 10) + "-" + strconv.FormatInt(p.Stored.UnixMilli(), 36)
}

// readToken returns the token of the place alone, and when the original was stored there; the zero time when the token
// does not say.
func readToken(token string) (place string, stored time.Time) {
	parts := strings.Split(token, "-")
	if len(parts) < 3 {
		return token, time.Time{}
	}
	if ms, err := strconv.ParseInt(parts[2], 36, 64); err == nil {
		stored = time.UnixMilli(ms)
	}
	return strings.Join(parts[:3], "-"), stored
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// wrapHeaders makes the headers of an internal copy: the publisher's own, with the server's control headers renamed
// (they would act again) and the publisher's Bridge- headers removed (they could be forged).
func wrapHeaders(original nats.Header) nats.Header {
	out := make(nats.Header, len(original)+12)
	size := 0
	// Small ones first: those of CloudEvents are small, a flood is not.
	keys := slices.SortedFunc(maps.Keys(original), func(a, b string) int {
		return headerSize(a, original[a]) - headerSize(b, original[b])
	})
	var dropped []string
	for _, k := range keys {
		if hasPrefixFold(k, event.OwnPrefix) {
			continue
		}
		if size += headerSize(k, original[k]); size > maxWrapped {
			dropped = append(dropped, truncate(k, 60))
			continue
		}
		if hasPrefixFold(k, natsPrefix) {
			out[event.OwnPrefix+k] = original[k]
		} else {
			out[k] = original[k]
		}
	}
	if len(dropped) > 0 {
		out.Set(headerDropped, truncate(strings.Join(dropped, ","), maxText))
	}
	return out
}

// unwrapHeaders restores the headers that the publisher sent.
func unwrapHeaders(h nats.Header) nats.Header {
	out := make(nats.Header, len(h))
	for k, v := range h {
		switch {
		case hasPrefixFold(k, event.OwnPrefix+natsPrefix):
			out[k[len(event.OwnPrefix):]] = v
		case hasPrefixFold(k, event.OwnPrefix), hasPrefixFold(k, natsPrefix):
		default:
			out[k] = v
		}
	}
	return out
}

func headerSize(k string, values []string) int {
	n := 0
	for _, v := range values {
		n += len(k) + len(v) + 4
	}
	return n
}

func headersSize(h nats.Header) int {
	n := 0
	for k, v := range h {
		n += headerSize(k, v)
	}
	return n
}

// truncate shortens s to at most n bytes of whole characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// numberText is "" for 0.
func numberText[N int | uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// timeText is "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// timeIn is the zero time for what is none.
func timeIn(h nats.Header, name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, h.Get(name))
	return t
}

func reasonText(r fault.Reason) string {
	for _, s := range []*string{&r.Code, &r.Field, &r.ZH, &r.EN, &r.RemoteCode, &r.RemoteText} {
		*s = truncate(*s, maxText)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	return string(text)
}

func reasonFrom(text string) (r fault.Reason) {
	if json.Unmarshal([]byte(text), &r) != nil {
		return fault.Reason{}
	}
	return r
}
