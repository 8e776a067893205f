package bus_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

// BenchmarkRead decodes and validates an order, a plain one and one with everything, and a message of 16 000 lines that
// each break two rules.
func BenchmarkRead(b *testing.B) {
	everything, err := os.ReadFile("../../proto/order/v1/testdata/Audited.json")
	if err != nil {
		b.Fatal(err)
	}
	plain := `{"seller":"one","shop":"S01","warehouse":"W01","order_no":"SO-1","outbound_no":"SO-1-1","revision":"1",` +
		`"audited_at":"2026-03-05T01:31:00Z","platform":"tmall","platform_order_nos":["T-1"],` +
		`"lines":[{"line_id":"1","goods_code":"TEA","quantity":"2","price":"59.90"},{"line_id":"2","goods_code":"CUP","quantity":"1"}],` +
		`"receiver":{"name":"李四","mobile":"13800000000","province":"浙江省","city":"杭州市","county":"西湖区","address":"文三路 90 号"}}`
	garbage := `{"seller":"one","lines":[` + strings.Repeat(`{"quantity":-1},`, 15_999) + `{}]}`
	h := nats.Header{event.HeaderContentType: {"application/json"}}
	for _, c := range []struct {
		name  string
		body  []byte
		valid bool
	}{{"plain", []byte(plain), true}, {"everything", everything, true}, {"garbage", []byte(garbage), false}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, wrong, err := bus.Read(event.OrderAudited, h, c.body); !ok || err != nil || (len(wrong) == 0) != c.valid {
					b.Fatal(wrong, err)
				}
			}
		})
	}
}
