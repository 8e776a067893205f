package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// audited is an audit as an ERP publishes it, with a header of its own and a forged one of ours.
func audited(t *testing.T, b *bus.Bus, no string) {
	t.Helper()
	header := nats.Header{
		event.HeaderID: {"erp-" + no}, event.HeaderSubject: {no}, event.HeaderTrace: {parent}, event.HeaderContentType: {"application/json"},
		nats.MsgIdHdr: {"erp-" + no}, "X-Batch": {"7", "8"}, event.HeaderWhy: {"forged"},
	}
	if _, _, err := b.PublishRaw(t.Context(), "order.audited.acme", header, []byte(auditBody(no))); err != nil {
		t.Fatal(err)
	}
}

// headers are those of the last message on a subject, a line each and sorted; what differs from run to run is replaced.
func headers(t *testing.T, b *bus.Bus, stream, subject string, original bus.Stored) string {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	text := strings.ReplaceAll(headerLines(m.Header), original.At.UTC().Format(time.RFC3339Nano), "STORED")
	text = strings.ReplaceAll(text, bus.OriginOf(original.Stream, original.Seq, original.At), "ORIGIN")
	return anyCall.ReplaceAllString(anyTime.ReplaceAllString(text, "TIME"), "${1}CALL")
}

var (
	anyTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z`)
	left    = regexp.MustCompile(`"Left":"[^"]*"`)
	anyCall = regexp.MustCompile(`(Bridge-Call: )[A-Z2-7]{26}`)
)

func headerLines(h nats.Header) string {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if name == "Nats-Rollup" {
			continue // the server's, on a schedule
		}
		for _, value := range h[name] {
			fmt.Fprintf(&lines, "%s: %s\n", name, value)
		}
	}
	return lines.String()
}

// What every original keeps in each form.
const kept = "Content-Type: application/json\nX-Batch: 7\nX-Batch: 8\n"

const ce = "ce-id: erp-%[1]s\nce-subject: %[1]s\ntraceparent: " + parent + "\n"

// wantHeaders compares headers with those of a form: what is ours, and what the original keeps.
func wantHeaders(t *testing.T, form, got, no, ours string) {
	t.Helper()
	want := ours + "\n" + kept + fmt.Sprintf(ce, no)
	a, b := strings.Split(strings.TrimSpace(got), "\n"), strings.Split(strings.TrimSpace(want), "\n")
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		t.Errorf("%s:\n%s\nwant:\n%s", form, strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

// The headers of every form in which a message travels. Messages of other builds are in flight during an upgrade: names
// and values must stay.
func TestHeadersOfEveryForm(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	work := func(result error) (stop func()) {
		return serve(t, b, bus.Serving{}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) { return nil, result }, nil)
	}
	refusal := fault.Permanent(fault.Reason{Code: "bad.goods", Field: "lines[0]", ZH: "没有货品", EN: "no such goods", RemoteCode: "17"})
	hold := fault.Hold("shop:acme/S1", errors.New("no shop"))
	later := fault.RetryAfter(time.Hour, errors.New("later"))
	by := bus.By{Who: "ops", Why: "mended"}
	retry := event.RetrySubject(pusher, "acme")
	origin := func(no int) string {
		return fmt.Sprintf("Bridge-Subject: order.audited.acme\nBridge-Stream: INTAKE\nBridge-Sequence: %d\nBridge-Stored: STORED\n", no)
	}

	stop := work(later)
	audited(t, b, "D")
	eventually(t, "it is delayed", func() bool { return len(subjects(t, b, "RETRY", "park.>")) == 1 })
	settled(t, b)
	stop()
	wantHeaders(t, "delayed", headers(t, b, "RETRY", "park.>", at(t, b, "D")), "D", origin(1)+`Bridge-Parks: 1
Bridge-Nats-Msg-Id: erp-D
Nats-Msg-Id: park/order-pusher/ORIGIN/1
Nats-Schedule: @at TIME
Nats-Schedule-Target: retry.order-pusher.acme`)

	stop = work(refusal)
	audited(t, b, "X")
	x := at(t, b, "X")
	parseDeadLetter(t, b, 1)
	settled(t, b)
	stop()
	wantHeaders(t, "dead letter", headers(t, b, "SHELF", "dlq.>", x), "X", origin(2)+`Bridge-Seller: acme
Bridge-Key: X
Bridge-Class: permanent
Bridge-Reason: {"Code":"bad.goods","Field":"lines[0]","ZH":"没有货品","EN":"no such goods","RemoteCode":"17","RemoteText":""}
Bridge-Error: bad.goods (lines[0]): no such goods [17 ]
Bridge-Attempts: 1
Bridge-First: STORED
Bridge-Last: TIME
Bridge-Nats-Msg-Id: erp-X
Nats-Expected-Last-Subject-Sequence: 0`)

	dead := deadLetters(t, b)[0]
	if err := b.Replay(t.Context(), dead.Seq, by); err != nil {
		t.Fatal(err)
	}
	earlier := `{"no":1,"kind":"dlq","class":"permanent","code":"bad.goods","attempts":1,"Since":"TIME","Left":"TIME","Who":"ops","Why":"mended"}`
	wantHeaders(t, "replayed", headers(t, b, "RETRY", retry, x), "X", origin(2)+`Bridge-Replay: 1
Bridge-By: ops
Bridge-Why: mended
Bridge-Call: CALL
Bridge-Earlier: `+earlier+`
Bridge-Nats-Msg-Id: erp-X
Nats-Msg-Id: erp-X#replay-1`)

	stop = work(hold)
	parseDeadLetter(t, b, 1)
	settled(t, b)
	stop()
	wantHeaders(t, "replayed and held", headers(t, b, "SHELF", "held.>", x), "X", origin(2)+`Bridge-Seller: acme
Bridge-Key: X
Bridge-Class: held
Bridge-Cause: shop:acme/S1
Bridge-Reason: {"Code":"held","Field":"","ZH":"no shop","EN":"no shop","RemoteCode":"","RemoteText":""}
Bridge-Error: no shop
Bridge-Attempts: 1
Bridge-First: STORED
Bridge-Last: TIME
Bridge-Earlier: `+earlier+`
Bridge-Nats-Msg-Id: erp-X
Nats-Expected-Last-Subject-Sequence: 0`)

	by.Release = true
	if err := b.Replay(t.Context(), deadLetters(t, b)[0].Seq, by); err != nil {
		t.Fatal(err)
	}
	second := `{"no":2,"kind":"held","class":"held","cause":"shop:acme/S1","code":"held","attempts":1,"Since":"TIME","Left":"TIME","Who":"ops","Why":"mended","released":true}`
	wantHeaders(t, "released", headers(t, b, "RETRY", retry, x), "X", origin(2)+`Bridge-Replay: 2
Bridge-By: ops
Bridge-Why: mended
Bridge-Call: CALL
Bridge-Released: shop:acme/S1
Bridge-Earlier: `+earlier+`
Bridge-Earlier: `+second+`
Bridge-Nats-Msg-Id: erp-X
Nats-Msg-Id: erp-X#replay-2`)

	stop = work(later)
	delayed := event.DelaySubject(pusher, bus.OriginOf(x.Stream, x.Seq, x.At)+"-r2")
	eventually(t, "it is delayed", func() bool { return len(subjects(t, b, "RETRY", delayed)) == 1 })
	settled(t, b)
	stop()
	wantHeaders(t, "released and delayed", headers(t, b, "RETRY", delayed, x), "X", origin(2)+`Bridge-Parks: 1
Bridge-Replay: 2
Bridge-By: ops
Bridge-Why: mended
Bridge-Released: shop:acme/S1
Bridge-Earlier: `+earlier+`
Bridge-Earlier: `+second+`
Bridge-Nats-Msg-Id: erp-X
Nats-Msg-Id: park/order-pusher/ORIGIN-r2/1
Nats-Schedule: @at TIME
Nats-Schedule-Target: retry.order-pusher.acme`)

	if err := b.Redeliver(t.Context(), pusher, placeOf(x), 3, by); err != nil {
		t.Fatal(err)
	}
	wantHeaders(t, "redelivered", headers(t, b, "RETRY", retry, x), "X", origin(2)+`Bridge-Again: 3
Bridge-By: ops
Bridge-Why: mended
Bridge-Nats-Msg-Id: erp-X
Nats-Msg-Id: ORIGIN#again-3`)

	stop = work(hold)
	parseDeadLetter(t, b, 1)
	settled(t, b)
	stop()
	if _, ended, err := b.Age(t.Context(), pusher, time.Now().Add(time.Hour), time.Minute, fault.Reason{Code: "held.expired", ZH: "过久", EN: "too long"}); err != nil || ended != 1 {
		t.Fatalf("%d ended, %v", ended, err)
	}
	wantHeaders(t, "held for too long", headers(t, b, "SHELF", "dlq.>", x), "X", origin(2)+`Bridge-Seller: acme
Bridge-Key: X
Bridge-Class: permanent
Bridge-Reason: {"Code":"held.expired","Field":"","ZH":"过久","EN":"too long","RemoteCode":"","RemoteText":""}
Bridge-Error: held.expired: too long; shop:acme/S1: no shop
Bridge-Attempts: 1
Bridge-First: STORED
Bridge-Last: TIME
Bridge-Nats-Msg-Id: erp-X
Nats-Expected-Last-Subject-Sequence: 0`)
}

func TestHeadersOfAMigratedMessage(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	bustest.Earlier(t, url, pusher, time.Second)
	audited(t, b, "M")
	if _, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil {
		t.Fatal(err)
	}
	wantHeaders(t, "migrated", headers(t, b, "RETRY", event.RetrySubject(pusher, "acme"), at(t, b, "M")), "M", `Bridge-Subject: order.audited.acme
Bridge-Stream: ORDERS
Bridge-Sequence: 1
Bridge-Stored: STORED
Bridge-Nats-Msg-Id: erp-M
Nats-Msg-Id: ORIGIN#moved`)
}

// What a worker is given, and passes on when it delays or dead-letters the message, for headers of other builds and for
// damaged ones.
func TestARetryIsReadFromItsHeaders(t *testing.T) {
	t.Parallel()
	const origin = "Bridge-Subject: order.audited.acme|Bridge-Stream: INTAKE|Bridge-Sequence: 41|Bridge-Stored: 2026-01-02T03:04:05.06Z"
	const original = "order.audited.acme INTAKE/41 2026-01-02T03:04:05.06Z"
	const first = origin + "|Bridge-Parks: 1"
	// A message that does not say where its original is stored is on a subject of no event.
	const own, ownOrigin = "retry.order-pusher.acme RETRY/SEQ OWN", "Bridge-Subject: retry.order-pusher.acme|Bridge-Stream: RETRY|Bridge-Sequence: SEQ|Bridge-Stored: OWN" +
		"|Bridge-Seller: acme|Bridge-Key: A|Bridge-Class: permanent|Bridge-Attempts: 1|Bridge-First: OWN"
	for name, c := range map[string]struct{ headers, delivery, stored string }{
		"as it is written": {origin + "|Bridge-Parks: 2", original, origin + "|Bridge-Parks: 3"},
		"in another zone":  {strings.Replace(origin, "03:04:05.06Z", "11:04:05.06+08:00", 1), original, first},
		"released": {
			origin + "|Bridge-Replay: 7|Bridge-Released: a|Bridge-Released: b|Bridge-By: me|Bridge-Why: so|Bridge-Call: X|Bridge-Earlier: not JSON",
			original + "-r7 [a b] replay",
			first + "|Bridge-Replay: 7|Bridge-Released: a|Bridge-Released: b|Bridge-By: me|Bridge-Why: so|Bridge-Earlier: not JSON",
		},
		"redelivered":               {origin + "|Bridge-Again: 2|Bridge-By: me", original + "-a2 replay", first + "|Bridge-Again: 2|Bridge-By: me"},
		"counts that are no number": {origin + "|Bridge-Parks: x|Bridge-Replay: x|Bridge-Again: x|Bridge-Released: a|Bridge-By: me", original + " [a]", first},
		"of a later build":          {origin + "|Bridge-Later: x", original, first},
		"no time":                   {strings.Replace(origin, "03:04", "x", 1), "order.audited.acme INTAKE/41 OWN", strings.Replace(first, "2026-01-02T03:04:05.06Z", "OWN", 1)},
		"no sequence":               {strings.Replace(origin, "41", "x", 1), own, ownOrigin},
		"no headers":                {"", own, ownOrigin},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.Start(t, services()...)
			given := make(chan bus.Delivery, 1)
			stop := serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, _ *orderv1.Audited) ([]event.Event, error) {
				given <- *d
				return nil, fault.RetryAfter(time.Hour, errors.New("later"))
			}, func(d *bus.Delivery, _ *orderv1.Audited, _ error) []event.Event {
				given <- *d
				return nil
			})
			m := msg(event.RetrySubject(pusher, "acme"), auditBody("A"))
			m.Header = headersFrom(c.headers)
			seq := send(t, b, m).Sequence
			eventually(t, "it is given to the worker", func() bool { return len(given) == 1 })
			d := <-given
			settled(t, b)
			stop()
			stored := headersFrom(c.stored)
			stream, subject := "RETRY", event.DelaySubject(pusher, d.Origin())
			if stored.Get(event.HeaderDelays) == "" {
				stream, subject = "SHELF", event.DeadLetterSubject(event.Dead, pusher, "RETRY", seq)
			}
			s, err := b.JS().Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			passed, err := s.GetLastMsgForSubject(t.Context(), subject)
			if err != nil {
				t.Fatal(err)
			}
			mask := strings.NewReplacer(fmt.Sprintf("RETRY/%d", seq), "RETRY/SEQ", fmt.Sprintf("Sequence: %d\n", seq), "Sequence: SEQ\n", d.StreamTime.UTC().Format(time.RFC3339Nano), "OWN")
			if strings.HasPrefix(d.StreamTime.UTC().Format(time.RFC3339Nano), "2026-01-02") {
				mask = strings.NewReplacer()
			}
			got := fmt.Sprintf("%s %s/%d %s", d.Subject, d.Stream, d.Seq, d.StreamTime.UTC().Format(time.RFC3339Nano))
			got += strings.TrimPrefix(d.Origin(), bus.OriginOf(d.Stream, d.Seq, d.StreamTime))
			if len(d.Released) > 0 {
				got += fmt.Sprintf(" %v", d.Released)
			}
			if d.Replay {
				got += " replay"
			}
			if got = mask.Replace(got); got != c.delivery {
				t.Errorf("delivered as %q, want %q", got, c.delivery)
			}
			for k := range passed.Header {
				if !strings.HasPrefix(k, event.OwnPrefix) || slices.Contains([]string{event.HeaderReason, event.HeaderError, event.HeaderLast}, k) {
					delete(passed.Header, k)
				}
			}
			if got, want := mask.Replace(headerLines(passed.Header)), headerLines(stored); got != want {
				t.Errorf("stored with\n%swant\n%s", got, want)
			}
		})
	}
}

// What is read of a dead letter, and sent when it is replayed, for headers of other builds and for damaged ones.
func TestADeadLetterIsReadFromItsHeaders(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	const origin = "Bridge-Subject: order.audited.acme|Bridge-Stream: INTAKE|Bridge-Sequence: 41|Bridge-Stored: 2026-01-02T03:04:05.06Z"
	const whole = origin + `|ce-id: erp-A|traceparent: ` + parent + `|Bridge-Nats-Msg-Id: erp-A|Bridge-Seller: acme|Bridge-Key: A|Bridge-Class: held|Bridge-Cause: shop:acme/S1
		|Bridge-Reason: {"code":"held","en":"no shop"}|Bridge-Error: no shop|Bridge-Attempts: 3|Bridge-First: 2026-01-02T03:04:05.06Z|Bridge-Last: 2026-01-02T03:04:06Z
		|Bridge-Released: other|Bridge-Earlier: {"no":4,"kind":"dlq","Who":"me"}`
	const unread = "   order.audited.acme INTAKE/41 [] class  cause  reason ; error  attempts 0 first 0001-01-01T00:00:00Z last 0001-01-01T00:00:00Z trace  earlier []"
	const sent = origin + "|Bridge-Replay: NO|Bridge-By: me|Bridge-Earlier: "
	for name, c := range map[string]struct{ headers, letter, sent string }{
		"as it is written": {
			whole,
			"acme A erp-A order.audited.acme INTAKE/41 [Nats-Msg-Id ce-id traceparent] class held cause shop:acme/S1 reason held;no shop error no shop attempts 3" +
				" first 2026-01-02T03:04:05.06Z last 2026-01-02T03:04:06Z trace " + parent + " earlier [4 dlq me]",
			origin + `|ce-id: erp-A|traceparent: ` + parent + `|Bridge-Nats-Msg-Id: erp-A|Nats-Msg-Id: erp-A#replay-NO|Bridge-Replay: NO|Bridge-By: me|Bridge-Released: other|Bridge-Released: shop:acme/S1
				|Bridge-Earlier: {"no":4,"kind":"dlq","Who":"me"}
				|Bridge-Earlier: {"no":NO,"kind":"held","class":"held","cause":"shop:acme/S1","code":"held","attempts":3,"Since":"2026-01-02T03:04:06Z","Left":"NOW","Who":"me","Why":"","released":true}`,
		},
		"damaged": {
			origin + "|Bridge-Reason: x|Bridge-Attempts: x|Bridge-First: x|Bridge-Last: x|Bridge-Earlier: x|Bridge-Later: x",
			unread,
			sent + `x|Bridge-Earlier: {"no":NO,"kind":"held","class":"","attempts":0,"Since":"0001-01-01T00:00:00Z","Left":"NOW","Who":"me","Why":""}|Nats-Msg-Id: INTAKE/41#replay-NO`,
		},
		"no sequence": {
			strings.Replace(origin, "41", "x", 1),
			strings.Replace(unread, "41", "0", 1),
			strings.Replace(sent, "|Bridge-Sequence: 41", "", 1) +
				`{"no":NO,"kind":"held","class":"","attempts":0,"Since":"0001-01-01T00:00:00Z","Left":"NOW","Who":"me","Why":""}|Nats-Msg-Id: INTAKE/0#replay-NO`,
		},
		"no headers": {
			"",
			strings.Replace(unread, "order.audited.acme INTAKE/41", " /0", 1),
			`Bridge-Replay: NO|Bridge-By: me|Bridge-Earlier: {"no":NO,"kind":"held","class":"","attempts":0,"Since":"0001-01-01T00:00:00Z","Left":"NOW","Who":"me","Why":""}|Nats-Msg-Id: /0#replay-NO`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := msg(event.DeadLetterSubject(event.Held, pusher, "INTAKE", 41), auditBody("A"))
			m.Header = headersFrom(c.headers)
			seq := send(t, b, m).Sequence
			s := deadLetters(t, b)[0]
			var was []string
			for _, e := range s.Earlier {
				was = append(was, fmt.Sprint(e.No, " ", e.Kind, " ", e.Who))
			}
			got := fmt.Sprintf("%s %s %s %s %s/%d %s class %s cause %s reason %s;%s error %s attempts %d first %s last %s trace %s earlier %s", s.Seller, s.Key, s.ID, s.Subject, s.Stream, s.OriginSeq,
				slices.Sorted(maps.Keys(s.Header)), s.Class, s.Cause, s.Reason.Code, s.Reason.EN, s.Error, s.Attempts, s.First.Format(time.RFC3339Nano), s.Last.Format(time.RFC3339Nano), s.Trace, was)
			if got != c.letter {
				t.Errorf("read as\n%s\nwant\n%s", got, c.letter)
			}
			if err := b.Replay(t.Context(), seq, bus.By{Who: "me", Release: true}); err != nil {
				t.Fatal(err)
			}
			retries, err := b.JS().Stream(t.Context(), "RETRY")
			if err != nil {
				t.Fatal(err)
			}
			raw, err := retries.GetLastMsgForSubject(t.Context(), event.RetryOf(pusher))
			if err != nil {
				t.Fatal(err)
			}
			raw.Header.Del(event.HeaderCall)
			for k, v := range raw.Header {
				if slices.Equal(v, []string{""}) { // says as much as none
					delete(raw.Header, k)
				}
			}
			if raw.Header.Get(event.HeaderOriginSeq) == "x" { // cannot be read either
				raw.Header.Del(event.HeaderOriginSeq)
			}
			want := strings.NewReplacer("#replay-NO", fmt.Sprintf("#replay-%d", seq), "Replay: NO", fmt.Sprintf("Replay: %d", seq), `"no":NO`, fmt.Sprintf(`"no":%d`, seq)).Replace(c.sent)
			if got, want := left.ReplaceAllString(headerLines(raw.Header), `"Left":"NOW"`), headerLines(headersFrom(want)); got != want {
				t.Errorf("sent with\n%swant\n%s", got, want)
			}
		})
	}
}

func auditBody(no string) string {
	return fmt.Sprintf(`{"seller":"acme","shop":"S1","warehouse":"W1","order_no":"O-%[1]s","outbound_no":"%[1]s","revision":1,"audited_at":"2026-01-02T03:04:05Z",
		"lines":[{"line_id":"1","goods_code":"G1","quantity":2}],"receiver":{"name":"张三","mobile":"13800000000","address":"中关村 1 号"}}`, no)
}

// headersFrom reads headers that are separated by bars.
func headersFrom(text string) nats.Header {
	h := nats.Header{}
	for line := range strings.SplitSeq(text, "|") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			h.Add(name, value)
		}
	}
	return h
}
