package jd

import (
	"errors"
	"strings"
	"testing"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
)

// The sandbox accepts the order of the ERP's own program; our plan of the same order is compared with what JD returns.
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
			w, far := open(t, jdsandbox.Knobs{})
			o := warehousetest.Order("C-1")
			if c.change != nil {
				c.change(o)
			}
			body := w.Orders().Plan(o).Body
			if !strings.Contains(body, c.from) {
				t.Fatalf("the request has no %s:\n%s", c.from, body)
			}
			no, err := far.jd.Take(strings.Replace(body, c.from, c.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.Orders().Compare(t.Context(), o, no)
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

// What is found under an order's number is adopted unless it is another order: JD's spelling is no sign of that.
func TestAnotherOrdersDocumentIsRecognised(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to string // in the request that JD accepted
		change   func(*orderv1.Audited)
		foreign  string
	}{
		{"nothing", "", "", nil, ""},
		{"another quantity", `"quantity":"2,3"`, `"quantity":"2,4"`, nil, "lines.quantity"},
		{"other goods", "SKU-2", "SKU-9", nil, "lines lines"},
		{"another receiver", "王小明", "李四", nil, "receiver.name"},
		{"another phone", "13800138000", "13900139999", nil, "receiver.mobile"},
		{"another street", "文三路 90 号", "解放路 1 号", nil, "receiver.address"},
		{"another shop", "ESP0020000009400", "ESP0020000009401", nil, "shop"},
		{"another warehouse", "110006341", "110006342", nil, "warehouse"},
		{"a name that JD hides", "王小明", "王*明", nil, ""},
		{"a name cut short", "王小明", "王小", nil, ""},
		{"blanks only", "文三路 90 号", "文三路90号", nil, ""},
		{"the street only", "浙江省 杭州市 西湖区 文三路", "文三路", nil, ""},
		{"a country's number before the phone", "13800138000", "+86 138 0013 8000", nil, ""},
		{"another carrier, platform, price", `19.90,5.00`, `19.90,6.00`, func(o *orderv1.Audited) { o.Platform = "other" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, far := open(t, jdsandbox.Knobs{})
			o := warehousetest.Order("F-1")
			body := w.Orders().Plan(o).Body
			if c.change != nil {
				c.change(o)
			}
			if !strings.Contains(body, c.from) {
				t.Fatalf("the request has no %s:\n%s", c.from, body)
			}
			no, err := far.jd.Take(strings.Replace(body, c.from, c.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.Orders().Compare(t.Context(), o, no)
			if err != nil {
				t.Fatal(err)
			}
			if f := named(got.Foreign); f != c.foreign {
				t.Errorf("another order's because of %q, want %q; all differences: %q", f, c.foreign, named(got.Differences))
			}
		})
	}
}

func named(list []*orderv1.Difference) string {
	var names []string
	for _, d := range list {
		names = append(names, d.Field)
	}
	return strings.Join(names, " ")
}

func TestLinesThatShowAnotherOrder(t *testing.T) {
	ours := []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}, {LineId: "2", GoodsCode: "CUP", Quantity: 3}}
	for _, c := range []struct {
		name    string
		split   bool
		theirs  []jdapi.OrderLine
		foreign string
	}{
		{"none yet", false, nil, ""},
		{"the same, in another order, one as two rows", false, []jdapi.OrderLine{{IsvGoodsNo: "CUP", Quantity: "1"}, {IsvGoodsNo: "TEA", Quantity: "2"}, {IsvGoodsNo: "CUP", Quantity: "2"}}, ""},
		{"by JD's numbers only, as many pieces", false, []jdapi.OrderLine{{GoodsNo: "EMG1", Quantity: "2"}, {GoodsNo: "EMG2", Quantity: "3"}}, ""},
		{"by JD's numbers only, other pieces", false, []jdapi.OrderLine{{GoodsNo: "EMG1", Quantity: "2"}}, "lines lines lines"},
		{"no quantities", false, []jdapi.OrderLine{{IsvGoodsNo: "CUP"}, {IsvGoodsNo: "TEA"}}, ""},
		{"one missing", false, []jdapi.OrderLine{{IsvGoodsNo: "TEA", Quantity: "2"}}, "lines"},
		{"one less", false, []jdapi.OrderLine{{IsvGoodsNo: "TEA", Quantity: "2"}, {IsvGoodsNo: "CUP", Quantity: "2"}}, "lines.quantity"},
		{"a part of a split one has some of them", true, []jdapi.OrderLine{{IsvGoodsNo: "CUP", Quantity: "1"}}, ""},
		{"a part of another one has more", true, []jdapi.OrderLine{{IsvGoodsNo: "CUP", Quantity: "4"}}, "lines.quantity"},
		{"a part of another one has other goods", true, []jdapi.OrderLine{{IsvGoodsNo: "POT", Quantity: "1"}}, "lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := comparing{split: c.split}
			found.lines(ours, c.theirs)
			if f := named(found.foreign); f != c.foreign {
				t.Errorf("another order's because of %q, want %q", f, c.foreign)
			}
		})
	}
}

// A read-only warehouse sends nothing that could write.
func TestAReaderCannotWrite(t *testing.T) {
	w, far := open(t, jdsandbox.Knobs{})
	w.api.ReadOnly = true
	o := warehousetest.Order("R-1")
	if _, err := warehousetest.Send(t.Context(), w.Orders(), o); !errors.Is(err, jdapi.ErrReadOnly) || !errors.Is(err, jdapi.ErrNotSent) {
		t.Errorf("took an order: %v", err)
	}
	for _, d := range w.Diagnose(t.Context()) {
		if d.What == "order.addOrder" && (d.Err != nil || d.Note == "") {
			t.Errorf("the diagnosis says %+v", d)
		}
	}
	if _, err := w.Orders().Find(t.Context(), []string{"R-1"}); err != nil {
		t.Errorf("cannot read: %v", err)
	}
	for _, call := range far.jd.Calls() {
		if call.Method == "eclp.order.addOrder" {
			t.Errorf("JD saw %+v", call)
		}
	}
}
