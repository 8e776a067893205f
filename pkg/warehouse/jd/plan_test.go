package jd

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

var update = flag.Bool("update", false, "rewrite testdata")

// offline is a warehouse whose JD does not answer.
func offline(t *testing.T, change ...func(*sellerv1.Setup)) *Warehouse {
	s := setup("http://127.0.0.1:1")
	for _, c := range change {
		c(s)
	}
	w, err := New(Options{Seller: seller.New(s, nil), Warehouse: "W01", Class: quota.Push, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// What JD is sent for an order.
func TestOrdersInJDsFields(t *testing.T) {
	utc := func(h int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 3, 1, h, 30, 0, 0, time.UTC))
	}
	for _, c := range []struct {
		name   string
		change func(*orderv1.Audited)
		setup  func(*sellerv1.Setup)
	}{
		{name: "plain"},
		{name: "all that an ERP can say", change: func(o *orderv1.Audited) {
			o.Platform, o.PlatformOrderNos = "jd", []string{"JD-1", "JD-2"}
			o.OrderedAt, o.PaidAt, o.ExpectedAt = utc(20), utc(21), utc(22) // the next day in Beijing
			o.Carrier, o.Collect = "jd", "99.5"
			o.Invoice = &orderv1.Invoice{Kind: orderv1.Invoice_KIND_ELECTRONIC, Title: "某某公司", Content: "明细", TaxNo: "91330000"}
			o.Marks = &orderv1.Marks{Urgent: true, InsuredValue: "1000"}
			o.BuyerRemark, o.SellerRemark = "请轻放", "送小样"
			o.Receiver.Phone, o.Receiver.Email, o.Receiver.Town, o.Receiver.Postcode = "0571-88888888", "w@example.com", "西溪街道", "310000"
			for i, l := range o.Lines {
				l.WarehouseGoodsNo = fmt.Sprintf("EMG441804834821%d", i)
				l.Batch = &orderv1.Batch{BatchNo: "B1", ProductionDate: "2026-01-01", ExpiryDate: "2027-01-01"}
			}
		}, setup: func(s *sellerv1.Setup) { s.Accounts[0].CarrierOwner = "010K1123" }},
		{name: "nothing to collect and a line without a price", change: func(o *orderv1.Audited) {
			o.Collect, o.Marks = "0.00", &orderv1.Marks{InsuredValue: "0"}
			o.Lines[1].Price = ""
			o.Platform, o.PlatformOrderNos, o.OrderedAt = "a village fair", nil, nil
		}},
		{name: "goods by the numbers of JD", change: func(o *orderv1.Audited) {
			o.Lines[0].WarehouseGoodsNo, o.Lines[1].WarehouseGoodsNo = "EMG1", "EMG2"
			o.Lines[0].GoodsCode = ""
		}},
		{name: "texts to be cleaned", change: func(o *orderv1.Audited) {
			o.Receiver.Name, o.Receiver.Address = "王小明🌸", "浙江杭州市西湖区西溪街道 A&B 座\n２ 幢 𠮷田 "
			o.Receiver.Town, o.Receiver.Mobile, o.Receiver.Phone = "西溪街道😀", "\u202d13800138000\u202c", "无"
			o.Lines[0].GoodsCode, o.Lines[1].Price = "SKU-1\n", "5.0000"
			o.BuyerRemark = "谢谢❤️\r\n请\t快👨‍👩‍👧点" + strings.Repeat("。", maxBuyerRemark)
			o.SellerRemark = strings.Repeat("好", maxSellerNote+1)
			o.Invoice = &orderv1.Invoice{Title: "Tea & Cup", Kind: orderv1.Invoice_KIND_VAT}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := warehousetest.Order("A-1")
			var setups []func(*sellerv1.Setup)
			if c.setup != nil {
				setups = append(setups, c.setup)
			}
			if c.change != nil {
				c.change(o)
			}
			plan := offline(t, setups...).Orders().Plan(o)
			if plan.Err != nil || len(plan.Findings) > 0 {
				t.Fatal(plan.Findings)
			}
			var got bytes.Buffer
			got.WriteString(plan.Call + "\n")
			if err := json.Indent(&got, []byte(plan.Body), "", "  "); err != nil {
				t.Fatal(err)
			}
			for _, cleaned := range plan.Cleaned {
				fmt.Fprintf(&got, "\n%s: %s: %s / %s", cleaned.Field, cleaned.What, cleaned.Zh, cleaned.En)
			}
			golden(t, c.name, got.String()+"\n")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestFindings(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*orderv1.Audited)
		// want is "code field", holds with " → cause".
		want []string
	}{
		{"nothing wrong", func(*orderv1.Audited) {}, nil},
		{"the shop is not set up", func(o *orderv1.Audited) { o.Shop = "S99" }, []string{"shop.unknown shop → shop:acme/S99"}},
		{"the carrier is not mapped", func(o *orderv1.Audited) { o.Carrier = "sf" }, []string{"carrier.unmapped carrier → carrier:acme/sf"}},
		{"JD's own platform without a number", func(o *orderv1.Audited) { o.Platform, o.PlatformOrderNos = "jd", nil },
			[]string{"platform_order.required platform_order_nos"}},
		{"stars in the name", func(o *orderv1.Audited) { o.Receiver.Name = "王**" }, []string{"receiver.masked receiver.name → receiver:acme/A-1"}},
		{"stars everywhere", func(o *orderv1.Audited) {
			o.Receiver.Name, o.Receiver.Mobile, o.Receiver.Address = "王＊＊", "138****8000", "文三路**号"
		}, []string{
			"receiver.masked receiver.name → receiver:acme/A-1", "receiver.masked receiver.mobile → receiver:acme/A-1",
			"receiver.masked receiver.address → receiver:acme/A-1",
		}},
		{"a long token for a name is masked, not too long", func(o *orderv1.Audited) {
			o.Receiver.Name = "~AgAAAAAzQ1ZKB0d6Rk1LQlBVQ1FJ~MTIzNA==~1~"
		}, []string{"receiver.masked receiver.name → receiver:acme/A-1"}},
		{"a token for a mobile", func(o *orderv1.Audited) { o.Receiver.Mobile = "$Ab12Cd34Ef$1$" }, []string{"receiver.masked receiver.mobile → receiver:acme/A-1"}},
		{"a bare token for a mobile", func(o *orderv1.Audited) { o.Receiver.Mobile = "QWJDZGVm" }, []string{"receiver.masked receiver.mobile → receiver:acme/A-1"}},
		{"a name of 21", func(o *orderv1.Audited) { o.Receiver.Name = strings.Repeat("王", 21) }, []string{"text.long receiver.name"}},
		{"a name of 20", func(o *orderv1.Audited) { o.Receiver.Name = strings.Repeat("王", 20) }, nil},
		{"an address of 101 with its area", func(o *orderv1.Audited) {
			o.Receiver.Address = strings.Repeat("路", 101-len([]rune("浙江省 杭州市 西湖区 ")))
		},
			[]string{"text.long receiver.address"}},
		{"an address of 100 with its area", func(o *orderv1.Audited) {
			o.Receiver.Address = strings.Repeat("路", 100-len([]rune("浙江省 杭州市 西湖区 ")))
		}, nil},
		{"a name of nothing but pictures", func(o *orderv1.Audited) { o.Receiver.Name = "🌸🌸" }, []string{"text.required receiver.name"}},
		{"no telephone", func(o *orderv1.Audited) { o.Receiver.Mobile = "" }, []string{"text.required receiver.mobile"}},
		{"a telephone of 31", func(o *orderv1.Audited) { o.Receiver.Phone = "0571-88886666" + strings.Repeat(" 转", 9) }, []string{"text.long receiver.phone"}},
		{"a telephone of 30 and noise", func(o *orderv1.Audited) {
			o.Receiver.Phone = "\u202d0571-88886666" + strings.Repeat(" 转", 8) + "1\u202c\n"
		}, nil},
		{"a number that nobody can call", func(o *orderv1.Audited) { o.Receiver.Mobile = "无" }, []string{"phone.uncallable receiver.mobile"}},
		{"a number that nobody can call beside one that can be", func(o *orderv1.Audited) { o.Receiver.Phone = "0" }, nil},
		{"a mark inside a code", func(o *orderv1.Audited) { o.Lines[1].GoodsCode = "SK\u200bU" }, []string{"text.character lines[1].goods_code"}},
		{"a street that lost a character", func(o *orderv1.Audited) { o.Receiver.Address = "文\ufffd路" }, []string{"text.character receiver.address"}},
		{"stars behind a mark", func(o *orderv1.Audited) { o.Receiver.Mobile = "138\u200b****8000" }, []string{"receiver.masked receiver.mobile → receiver:acme/A-1"}},
		{"an address that is short enough without the area's repetition", func(o *orderv1.Audited) {
			o.Receiver.Address = "浙江省杭州市西湖区" + strings.Repeat("示", 100-len([]rune("浙江省 杭州市 西湖区 ")))
		}, nil},
		{"a name of 20 and noise", func(o *orderv1.Audited) { o.Receiver.Name = "\u200b" + strings.Repeat("王\u200b", 20) + "\r\n" }, nil},
		{"zeros behind the second place", func(o *orderv1.Audited) {
			o.Collect, o.Lines[0].Price, o.Marks = "128.0000", "88.5000", &orderv1.Marks{InsuredValue: "1.10000"}
		}, nil},
		{"half a cent", func(o *orderv1.Audited) { o.Collect = "128.0050" }, []string{"money.invalid collect"}},
		{"no receiver", func(o *orderv1.Audited) { o.Receiver = nil },
			[]string{"text.required receiver.name", "text.required receiver.address", "text.required receiver.mobile"}},
		{"three decimals to collect", func(o *orderv1.Audited) { o.Collect = "1.999" }, []string{"money.invalid collect"}},
		{"no amounts", func(o *orderv1.Audited) { o.Lines[1].Price, o.Marks = "-1", &orderv1.Marks{InsuredValue: "many"} },
			[]string{"money.invalid marks.insured_value", "money.invalid lines[1].price"}},
		{"no quantity", func(o *orderv1.Audited) { o.Lines[1].Quantity = 0 }, []string{"quantity.invalid lines[1].quantity"}},
		{"no lines", func(o *orderv1.Audited) { o.Lines = nil }, []string{"lines.required lines"}},
		{"a line twice", func(o *orderv1.Audited) { o.Lines[1].LineId = "1" }, []string{"line.repeated lines[1].line_id"}},
		{"goods by JD's number here, by ours there", func(o *orderv1.Audited) { o.Lines[1].GoodsCode, o.Lines[1].WarehouseGoodsNo = "", "EMG2" },
			[]string{"goods.mixed lines[1].goods_code"}},
		{"a code that would shift the list", func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "a,b" }, []string{"text.comma lines[0].goods_code"}},
		{"a batch for one line only", func(o *orderv1.Audited) { o.Lines[1].Batch = &orderv1.Batch{BatchNo: "B1"} }, []string{"batch.partial lines[0].batch.batch_no"}},
		{"too large", func(o *orderv1.Audited) { o.Invoice = &orderv1.Invoice{Title: strings.Repeat("x", 2<<20)} }, []string{"order.large "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := warehousetest.Order("A-1")
			c.change(o)
			w := offline(t)
			plan := w.Orders().Plan(o)
			var got []string
			for _, finding := range plan.Findings {
				r := fault.ReasonOf(finding, "none")
				line := r.Code + " " + r.Field
				if cause := fault.Cause(finding); cause != "" {
					line += " → " + cause
				} else if fault.Of(finding) != fault.Refused {
					t.Errorf("%v is %v", finding, fault.Of(finding))
				}
				if got = append(got, line); r.ZH == "" || r.EN == "" {
					t.Errorf("no words for it: %+v", r)
				}
				if strings.Contains(finding.Error()+r.ZH, "13800138000") || o.Receiver != nil && strings.Contains(finding.Error()+r.ZH, o.Receiver.Name) && o.Receiver.Name != "" {
					t.Errorf("shows the receiver: %v", finding)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if (plan.Err == nil) != (len(c.want) == 0) {
				t.Errorf("error %v", plan.Err)
			}
		})
	}

	t.Run("what needs a change of the order comes first", func(t *testing.T) {
		o := warehousetest.Order("A-1")
		o.Carrier, o.Receiver.Name, o.Collect = "sf", "王**", "1.999"
		plan := offline(t).Orders().Plan(o)
		if fault.Of(plan.Err) != fault.Refused || len(plan.Findings) != 3 {
			t.Errorf("%v of %v", plan.Err, plan.Findings)
		}
	})
}

// Incomplete settings hold the warehouse's orders until they are fixed.
func TestASetupThatLacksSomethingHoldsOrders(t *testing.T) {
	for field, break_ := range map[string]func(*sellerv1.Setup){
		"warehouses.W01": func(s *sellerv1.Setup) { s.Warehouses[0].Code = "W02" },
		"accounts.main":  func(s *sellerv1.Setup) { s.Accounts[0].Name = "other" },
		"warehouse_no":   func(s *sellerv1.Setup) { s.Warehouses[0].WarehouseNo = "" },
		"app_key":        func(s *sellerv1.Setup) { s.Accounts[0].AppKey = "" },
		"department":     func(s *sellerv1.Setup) { s.Accounts[0].Department = "" },
		"vendor_source":  func(s *sellerv1.Setup) { s.Accounts[0].VendorSource = "" },
	} {
		s := setup("")
		break_(s)
		_, err := New(Options{Seller: seller.New(s, nil), Warehouse: "W01"})
		if r := fault.ReasonOf(err, ""); fault.Cause(err) != "warehouse:acme/W01" || !strings.Contains(r.EN, field) || !strings.Contains(r.ZH, field) {
			t.Errorf("%s: %v holds for %q", field, err, fault.Cause(err))
		}
	}
}

// The call that is sent for an order, byte by byte, at a fixed time.
func TestTheWholeCall(t *testing.T) {
	var sent strings.Builder
	w := answering(t, func(r *request) string {
		fmt.Fprintf(&sent, "%s %s\n\n%s\n", r.Method, r.URL.RequestURI(), r.body)
		return accepted
	})
	w.api.Now = func() time.Time { return time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC) }
	taken, err := warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order("A-1"))
	if err != nil || taken.WarehouseNo != "ESL1" {
		t.Fatal(taken, err)
	}
	golden(t, "call", sent.String())
	if strings.Contains(sent.String(), jdsandbox.DefaultAppSecret) {
		t.Error("the application's secret is sent")
	}
}

// An order that passes the plan passes JD's checks of parameters, whatever its texts are, and its lists have equal
// lengths.
func FuzzPlan(f *testing.F) {
	f.Add("王小明", "文三路 90 号", "13800138000", "谢谢\n❤️&", "SKU-1", "B1", "19.9", "0.50", "T-1", uint8(2))
	f.Add("O'Neil \"x\"", "A&B + 100% <b>", "+86 138-0013-8000", "\\", "SKU\t1", "", "0", "", "T,1", uint8(2))
	f.Add("~Ab12Cd34==~1~", "", "1", "\u2028", "a,b", "", "", "", "", uint8(0))
	f.Fuzz(func(t *testing.T, name, address, mobile, remark, code, batch, price, collect, platformNo string, lines uint8) {
		o := warehousetest.Order("A-1")
		o.Receiver.Name, o.Receiver.Address, o.Receiver.Mobile = name, address, mobile
		o.BuyerRemark, o.SellerRemark, o.Collect = remark, remark, collect
		o.PlatformOrderNos = []string{platformNo}
		for i := range o.Lines {
			o.Lines[i].GoodsCode, o.Lines[i].Price = code, price
		}
		for i := range lines % 8 {
			o.Lines = append(o.Lines, &orderv1.Line{LineId: fmt.Sprint("x", i), GoodsCode: "SKU", WarehouseGoodsNo: code, Quantity: 1, Batch: &orderv1.Batch{BatchNo: batch}})
		}
		w, far := open(t, jdsandbox.Knobs{})
		taken, err := warehousetest.Send(t.Context(), w.Orders(), o)
		switch {
		case err != nil && far.jd.Counters().Calls["eclp.order.addOrder"] > 0:
			t.Errorf("JD refused what we planned: %v", err)
		case err == nil:
			if d, ok := far.jd.Document(taken.WarehouseNo); !ok || len(d.Lines) != len(o.Lines) {
				t.Errorf("%d lines of %d: %+v", len(d.Lines), len(o.Lines), d)
			}
		}
	})
}
