package jd

import (
	"errors"
	"strings"
	"testing"

	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/jd/jdtest"
	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
)

// What the ERP's own program sends is taken by the sandbox as it is; our plan of the order is held against what JD gives
// back of it.
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to string // in the request of the ERP's program
		change   func(*orderv1.Audited)
		field    string
		ours     string
		theirs   string
		en       string
	}{
		{"nothing", "", "", nil, "", "", "", ""},
		{"no carrier is JD's own", `"orderMark"`, `"shipperNo":"CYS0000010","orderMark"`, nil, "", "", "", ""},
		{"an amount written otherwise", "5.00", "5.0", nil, "", "", "", ""},
		{"another carrier", `"orderMark"`, `"shipperNo":"CYS0000099","orderMark"`, nil, "carrier", "CYS0000010", "CYS0000099", "another carrier"},
		{"another shop", "ESP0020000009400", "ESP0020000009401", nil, "shop", "ESP0020000009400", "ESP0020000009401", "another shop"},
		{"another platform", `"salePlatformSource":"2"`, `"salePlatformSource":"6"`, nil, "platform", "2", "6", "another sales platform"},
		{"another quantity", `"quantity":"2,3"`, `"quantity":"2,4"`, nil, "lines.quantity", "SKU-2 × 3", "SKU-2 × 4", "another quantity"},
		{"goods that we would not send", "SKU-2", "SKU-9", nil, "lines lines", "SKU-2 × 3 ", " SKU-9 × 3", "they did not send these goods"},
		{"another price", "19.90,5.00", "19.90,6.00", nil, "lines.price", "SKU-2 5", "SKU-2 6.00", "another price"},
		{"another phone", "13800138000", "13900139999", nil, "receiver.mobile", "***8000", "***9999", "another mobile number"},
		{"a name that JD hides", "王小明", "王*明", nil, "", "", "", ""},
		{"a name cut short", "王小明", "王小", nil, "receiver.name", "王** (3)", "王** (2)", "another name: theirs is shorter, perhaps cut"},
		{"blanks only", "文三路 90 号", "文三路90号", nil, "receiver.address", "浙** (24)", "浙** (22)", "another address: only in blanks"},
		{"a remark that we clean", "快递放门口＆谢谢", "快递放门口&谢谢", func(o *orderv1.Audited) { o.BuyerRemark = "快递放门口&谢谢" }, "buyer_remark", "快** (8)", "快** (8)",
			"another remark: only because we remove or replace characters that JD does not take"},
		{"an area that we send once", "西湖区 文三路", "西湖区 浙江省杭州市西湖区文三路", func(o *orderv1.Audited) {
			o.Receiver.Address = "浙江省杭州市西湖区文三路 90 号 2 幢"
		}, "receiver.address", "浙** (24)", "浙** (33)", "another address: only because we send the area at the head of the street once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, far := open(t, jdtest.Knobs{})
			o := warehousetest.Order("C-1")
			if c.change != nil {
				c.change(o)
			}
			body := w.PlanOrder(o).Body
			if !strings.Contains(body, c.from) {
				t.Fatalf("the request has no %s:\n%s", c.from, body)
			}
			no, err := far.jd.Take(strings.Replace(body, c.from, c.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.CompareOrder(t.Context(), o, no)
			if err != nil {
				t.Fatal(err)
			}
			var fields, ours, theirs []string
			for _, d := range got.Differences {
				fields, ours, theirs = append(fields, d.Field), append(ours, d.Ours), append(theirs, d.Theirs)
				if d.Zh == "" || d.En == "" {
					t.Errorf("no words in both languages: %+v", d)
				}
				for _, personal := range []string{"王小明", "13800138000", "文三路"} {
					if strings.Contains(d.String(), personal) {
						t.Errorf("personal data: %v", d)
					}
				}
			}
			if f := strings.Join(fields, " "); f != c.field || strings.Join(ours, " ") != c.ours || strings.Join(theirs, " ") != c.theirs {
				t.Errorf("got %q: %q, theirs %q", f, ours, theirs)
			}
			if c.en != "" && !strings.HasPrefix(got.Differences[0].En, c.en) {
				t.Errorf("said %q", got.Differences[0].En)
			}
		})
	}
}

// A warehouse that may only read sends nothing that could write, whoever asks it to.
func TestAReaderCannotWrite(t *testing.T) {
	w, far := open(t, jdtest.Knobs{})
	w.api.ReadOnly = true
	o := warehousetest.Order("R-1")
	if _, err := w.TakeOrder(t.Context(), o); !errors.Is(err, jdapi.ErrReadOnly) || !errors.Is(err, jdapi.ErrNotSent) {
		t.Errorf("took an order: %v", err)
	}
	for _, d := range w.Diagnose(t.Context()) {
		if d.What == "order.addOrder" && (d.Err != nil || d.Note == "") {
			t.Errorf("the diagnosis says %+v", d)
		}
	}
	if _, err := w.FindOrders(t.Context(), []string{"R-1"}); err != nil {
		t.Errorf("cannot read: %v", err)
	}
	for _, call := range far.jd.Calls() {
		if call.Method == "eclp.order.addOrder" {
			t.Errorf("JD saw %+v", call)
		}
	}
}
