package bus

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

func TestThePathOfAFaultInJSONIsFound(t *testing.T) {
	const body = "{\"a\": 1,\n \"张\": [ {\"b\":[true, \"x\"]}, 7 ], \"c\": {\"d\": null}}"
	for at, want := range map[string]string{
		"1,": "a", "true": "张[0].b[0]", "\"x\"": "张[0].b[1]", "7": "张[1]", "null": "c.d", "{\"b\"": "张[0]", "\"d\"": "c.d",
	} {
		if got := jsonPath([]byte(body), strings.Index(body, at)); got != want {
			t.Errorf("at %s: %q, want %q", at, got, want)
		}
	}
	line, column := position([]byte(body), strings.Index(body, "7"))
	if at := offsetOf([]byte(body), line, column); at != strings.Index(body, "7") {
		t.Errorf("line %d, column %d is offset %d", line, column, at)
	}
}

// Whatever arrives: no panic, a reason with a place, and nothing of the body in it.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"", "{", "[]", "null", `{"lines":[{"quantity":"two"}]}`, `{"receiver":{"mobile":1}}`, `{"audited_at":"x"}`, "\xff", `{"a":"\ud800"}`,
		`{"seller":"a","seller":"b"}`, `{"lines":[{}`, "{\n\n\"revision\": 1e400}", strings.Repeat(`{"receiver":`, 50),
	} {
		f.Add([]byte(s), "application/json")
		f.Add([]byte(s), "application/protobuf")
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		m := event.OrderAudited.New()
		err := decode(nats.Header{event.HeaderContentType: {contentType}}, body, m)
		if err == nil {
			_ = validate(m)
			return
		}
		var r fault.Reason
		if !errors.As(err, &r) || r.Code != "malformed" || r.ZH == "" || r.EN == "" || len(r.Field) > 200 {
			t.Errorf("%#v", err)
		}
		if utf8.Valid(body) && len(reasonText(r)) > 8*maxText {
			t.Errorf("a reason of %d bytes", len(reasonText(r)))
		}
	})
}

func TestHeadersTravelInsideAndBack(t *testing.T) {
	original := nats.Header{
		"ce-id": {"1"}, "X-Mine": {"a", "b"}, "Nats-Msg-Id": {"1"}, "nats-rollup": {"all"}, "Nats-Expected-Last-Sequence": {"7"},
		"Bridge-Released": {"hold:x"}, "bridge-seller": {"evil"},
	}
	inside := carry(original)
	for k := range inside {
		if hasPrefixFold(k, natsPrefix) {
			t.Errorf("%s would act again", k)
		}
	}
	if inside.Get("Bridge-Released") != "" || inside.Get("bridge-seller") != "" {
		t.Error("forged headers travel")
	}
	inside.Set(event.HeaderOriginSeq, "1")
	inside.Set("Nats-Scheduler", "park.x")
	back := uncarry(inside)
	delete(original, "Bridge-Released")
	delete(original, "bridge-seller")
	if len(back) != len(original) {
		t.Errorf("back: %v", back)
	}
	for k, v := range original {
		if strings.Join(back[k], ",") != strings.Join(v, ",") {
			t.Errorf("%s: %v", k, back[k])
		}
	}
}

func TestCutKeepsCharactersWhole(t *testing.T) {
	if got := cut("仓海", 4); got != "仓" {
		t.Errorf("%q", got)
	}
	if got := cut("仓海", 6); got != "仓海" {
		t.Errorf("%q", got)
	}
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	for attempt := range 80 {
		if d := backoff(attempt); d < 800e6 || d > 12*60e9 {
			t.Errorf("attempt %d: %v", attempt, d)
		}
	}
}
