package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

var auditedKind = (*orderv1.Audited)(nil).ProtoReflect().Descriptor()

func TestPrettyHidesWhatIsPersonal(t *testing.T) {
	for _, row := range []struct{ name, body, want string }{
		{"the receiver's fields, not the area", `{"receiver":{"name":"张三","mobile":"13800000000","city":"北京市","address":"示例路 1 号","email":""}}`,
			`{"receiver":{"name":"(hidden)","mobile":"(hidden)","city":"北京市","address":"(hidden)","email":""}}`},
		{"a field's other spelling", `{"outbound_no":"A-1","receiver":{"name":"张三"}}`, `{"outbound_no":"A-1","receiver":{"name":"(hidden)"}}`},
		{"a number where text belongs is shown, as a faulty quantity must be", `{"lines":[{"quantity":-1.50,"name":7}]}`, `{"lines":[{"quantity":-1.50,"name":7}]}`},
		{"text where the receiver belongs", `{"receiver":"张三 13800000000"}`, `{"receiver":"(hidden)"}`},
		{"a list where the receiver belongs", `{"receiver":[{"name":"张三"}],"shop":"S01"}`, `{"receiver":"(hidden)","shop":"S01"}`},
		{"an object where text belongs", `{"shop":{"name":"张三"},"warehouse":"W01"}`, `{"shop":"(hidden)","warehouse":"W01"}`},
		{"one line where lines belong", `{"lines":{"lineId":"1","name":"张三"}}`, `{"lines":"(hidden)"}`},
		{"a field that nobody knows", `{"buyerIdCard":"110101199001011234","x":{"y":["张三"]},"shop":"S01"}`, `{"buyerIdCard":"(hidden)","x":"(hidden)","shop":"S01"}`},
		{"times and lists of text", `{"auditedAt":"2026-03-05T01:31:00Z","platformOrderNos":["1","2"]}`, `{"auditedAt":"2026-03-05T01:31:00Z","platformOrderNos":["1","2"]}`},
		{"null, empty object, empty list", `{"receiver":null,"invoice":{},"lines":[]}`, `{"receiver":null,"invoice":{},"lines":[]}`},
		{"a body that is text alone", `"张三 13800000000"`, `"(hidden)"`},
		{"a body that is a list", `["张三"]`, `"(hidden)"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := pretty([]byte(row.body), auditedKind, false)
			if err != nil {
				t.Fatal(err)
			}
			if squeeze(got) != squeeze(row.want) {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
			open, err := pretty([]byte(row.body), auditedKind, true)
			if err != nil || squeeze(open) != squeeze(row.body) {
				t.Errorf("revealed: %s, %v\nwant %s", open, err, row.body)
			}
		})
	}
}

func TestPrettyHidesWhatItCannotRead(t *testing.T) {
	for _, body := range []string{"", "张三", `{"receiver":{"name":"张三"`, `{"shop":"S01"} 张三`, "\xff\xfe", `{"a":}`} {
		got, err := pretty([]byte(body), auditedKind, false)
		if !errors.Is(err, errNotJSON) || got != "" {
			t.Errorf("pretty(%q) = %q, %v", body, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "张") {
			t.Errorf("the error shows the text: %v", err)
		}
	}
}

func FuzzPretty(f *testing.F) {
	f.Add(`{"receiver":{"name":"SECRET","mobile":"SECRET"},"x":"SECRET"}`)
	f.Add(`{"lines":{"batch":["SECRET"]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := pretty([]byte(text), auditedKind, false)
		if err != nil {
			return
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %s", got)
		}
	})
}

// squeeze takes the spaces of layout away.
func squeeze(s string) string { return strings.NewReplacer(" ", "", "\n", "").Replace(s) }

// Earlier builds stored the warehouse's own texts with a message.
func TestTextsOnAMessageShowNoPersonalData(t *testing.T) {
	const words = "收件人张三 138 0000 0000，文三路90号，留言打给王大锤，单号2754381920561"
	m := bus.DeadLetter{
		Subject: "order.audited.demo", Key: "A-20261130001",
		Body:   []byte(`{"seller":"demo","platformOrderNos":["2754381920561"],"buyerRemark":"请打给王大锤","receiver":{"name":"张三","mobile":"13800000000","address":"文三路 90 号"}}`),
		Header: map[string][]string{"Ce-Subject": {"A-20261130001"}, "X-Phone": {"13800000000"}},
		Reason: fault.Reason{Code: "warehouse.permission", ZH: "至多 1000000", EN: "at most 1000000", RemoteText: words}, Error: "push demo/A-20261130001: " + words,
	}
	got := veiled(m)
	text := fmt.Sprint(got.Reason, got.Error, got.Header)
	for _, hidden := range []string{"张三", "138", "文三路", "王大锤"} {
		if strings.Contains(text, hidden) {
			t.Errorf("shows %s: %s", hidden, text)
		}
	}
	for _, shown := range []string{"A-20261130001", "2754381920561", "1000000"} {
		if !strings.Contains(text, shown) {
			t.Errorf("hides %s: %s", shown, text)
		}
	}
	m.Body = []byte("not JSON")
	if text := fmt.Sprint(veiled(m)); strings.Contains(text, "138") {
		t.Errorf("of a body that cannot be read: %s", text)
	}
}
