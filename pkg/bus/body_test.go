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

// For any input: no panic, a reason with a position, and nothing of the body in it.
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

// What a program does wrong on its first day: the answer names the field, what belongs there, and, where it can be
// read, the order.
func TestFirstDayMistakes(t *testing.T) {
	const head = `{"seller":"acme","outboundNo":"SO-1-1","revision":2,"orderNo":"SO-1",`
	for _, c := range []struct{ name, body, field, en, zh, number string }{
		{"a time without its zone", head + `"auditedAt":"2026-11-30 10:00:00"}`, "auditedAt", "with its zone", "带时区", "SO-1-1"},
		{"a time as a number", head + `"auditedAt":1764468000}`, "auditedAt", "with its zone", "带时区", "SO-1-1"},
		{"a quantity in words", head + `"lines":[{"quantity":1},{"quantity":"two"}]}`, "lines[1].quantity", "a whole number", "整数", "SO-1-1"},
		{"half a piece", head + `"lines":[{"quantity":1.5}]}`, "lines[0].quantity", "a whole number", "整数", "SO-1-1"},
		{"a number for a text", head + `"receiver":{"mobile":13800000000}}`, "receiver.mobile", "a text in quotes", "带引号", "SO-1-1"},
		{"money as a number", head + `"lines":[{"price":128.00}]}`, "lines[0].price", "a text in quotes", "带引号", "SO-1-1"},
		{"a text for a list", head + `"lines":"TEA"}`, "lines", "a list", "列表", "SO-1-1"},
		{"an object for a list", head + `"lines":{"lineId":"1"}}`, "lines", "a list", "列表", "SO-1-1"},
		{"a text for an object", head + `"receiver":"张三"}`, "receiver", "an object", "对象", "SO-1-1"},
		{"a word for yes", head + `"marks":{"urgent":"yes"}}`, "marks.urgent", "true or false", "true", "SO-1-1"},
		{"an unknown kind", head + `"invoice":{"kind":"PAPER"}}`, "invoice.kind", "KIND_ORDINARY", "KIND_VAT", "SO-1-1"},
		{"a field twice", head + `"shop":"S1","shop":"S2"}`, "shop", "given twice", "重复", "SO-1-1"},
		{"its own number as a number", `{"seller":"acme","outboundNo":100234}`, "outboundNo", "a text in quotes", "带引号", "100234"},
		{"its own number twice", `{"seller":"acme","outboundNo":"1","outbound_no":"2"}`, "outbound_no", "given twice", "重复", ""},
		{"cut off", head + `"lines":[{"li`, "lines[0]", "not JSON", "JSON", "SO-1-1"},
		{"a comma too many", head + `"shop":"S01",}`, "shop", "not JSON", "JSON", "SO-1-1"},
		{"another encoding", head + "\"buyerRemark\":\"\xc7\xeb\"}", "buyerRemark", "not UTF-8", "UTF-8", "SO-1-1"},
		{"a list of orders", `[{"seller":"acme"}]`, "", "an object", "对象", ""},
		{"nothing", `null`, "", "an object", "对象", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, readable, wrong, err := Read(event.OrderAudited, nil, []byte(c.body))
			if err != nil || readable || len(wrong) != 1 {
				t.Fatal(readable, wrong, err)
			}
			r := wrong[0]
			if r.Code != "malformed" || r.Field != c.field || !strings.Contains(r.EN, c.en) || !strings.Contains(r.ZH, c.zh) {
				t.Errorf("%+v", r)
			}
			for _, word := range []string{"proto", "int64", "google", "张三", "138000", "two", "PAPER", "invalid", "^", "token"} {
				if strings.Contains(r.EN+r.ZH, word) {
					t.Errorf("%q in %+v", word, r)
				}
			}
			if m.OutboundNo != c.number || c.number != "" && m.Seller != "acme" {
				t.Errorf("of %q/%q, want %q", m.Seller, m.OutboundNo, c.number)
			}
		})
	}
}

// Half an emoji does not make an order unreadable, and nothing else is touched.
func TestHalvesOfSurrogatePairs(t *testing.T) {
	for text, want := range map[string]string{
		`a\ud83d`: "a\ufffd", `\ud83dx`: "\ufffdx", `\ude00`: "\ufffd", `\ud83d\ud83d\ude00`: "\ufffd😀", `\ud83d\n`: "\ufffd\n",
		`\ud83d\ude00`: "😀", `\\ud83d`: `\ud83d`, `\\\ud83d`: "\\\ufffd", `\uD842\uDFB7`: "𠮷", `\ud83d\u0041`: "\ufffdA", `\u4e2d\uDE00\/`: "中\ufffd/",
	} {
		m, readable, wrong, err := Read(event.OrderAudited, nil, []byte(`{"seller":"acme","buyerRemark":"`+text+`"}`))
		if err != nil || !readable || m.BuyerRemark != want {
			t.Errorf("%s is %q: %v %v", text, m.BuyerRemark, wrong, err)
		}
	}
	if m, readable, _, _ := Read(event.OrderAudited, nil, []byte("\ufeff{\"seller\":\"acme\"}")); !readable || m.Seller != "acme" {
		t.Error("a byte order mark before the object")
	}
}

func TestHeadersTravelInsideAndBack(t *testing.T) {
	original := nats.Header{
		"ce-id": {"1"}, "X-Mine": {"a", "b"}, "Nats-Msg-Id": {"1"}, "nats-rollup": {"all"}, "Nats-Expected-Last-Sequence": {"7"},
		"Bridge-Released": {"hold:x"}, "bridge-seller": {"evil"},
	}
	inside := wrapHeaders(original)
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
	back := unwrapHeaders(inside)
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
	if got := truncate("仓海", 4); got != "仓" {
		t.Errorf("%q", got)
	}
	if got := truncate("仓海", 6); got != "仓海" {
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
