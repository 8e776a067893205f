package clean_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"stockbridge/pkg/clean"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

func order() *orderv1.Audited {
	return &orderv1.Audited{
		Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO-1", OutboundNo: "SO-1-1", Revision: 1, Platform: "taobao",
		PlatformOrderNos: []string{"275"},
		Lines:            []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2, Price: "128.00", Batch: &orderv1.Batch{BatchNo: "B1"}}},
		Receiver: &orderv1.Receiver{
			Name: "李四", Mobile: "13800000000", Province: "广东省", City: "东莞市", Town: "长安镇", Address: "示例路 1 号 2 单元（东门）#301",
		},
	}
}

func TestWhatPeopleType(t *testing.T) {
	type change = func(*orderv1.Audited)
	for _, c := range []struct {
		name   string
		change change
		// get reads what is sent, want is that.
		get  func(*orderv1.Audited) string
		want string
		// noted and wrong are "field what" and "field code", "" for nothing.
		noted, wrong string
	}{
		{"a number in direction marks", func(o *orderv1.Audited) { o.Receiver.Mobile = "\u202d13800000000\u202c" }, mobile, "13800000000", "receiver.mobile characters", ""},
		{"a picture before a number", func(o *orderv1.Audited) { o.Receiver.Mobile = "📱13800000000" }, mobile, "13800000000", "receiver.mobile characters", ""},
		{"a sign before a number", func(o *orderv1.Audited) { o.Receiver.Mobile = "☎ 13800000000" }, mobile, "13800000000", "receiver.mobile characters", ""},
		{"a line end behind a number", func(o *orderv1.Audited) { o.Receiver.Mobile = "13800000000\r\n" }, mobile, "13800000000", "receiver.mobile characters", ""},
		{"a full-width number", func(o *orderv1.Audited) { o.Receiver.Mobile = "１３８－００００－００００" }, mobile, "138-0000-0000", "receiver.mobile characters", ""},
		{"a word for a second number", func(o *orderv1.Audited) { o.Receiver.Phone = "无" }, phone, "", "receiver.phone dropped", ""},
		{"blanks for a second number", func(o *orderv1.Audited) { o.Receiver.Phone = "   " }, phone, "", "", ""},
		{"the number in the other field", func(o *orderv1.Audited) { o.Receiver.Mobile, o.Receiver.Phone = "0", "0755-12345678" }, mobile, "", "receiver.mobile dropped", ""},
		{"no number that can be called", func(o *orderv1.Audited) { o.Receiver.Mobile = "无" }, mobile, "无", "", "receiver.mobile phone.uncallable"},
		{"none in either field", func(o *orderv1.Audited) { o.Receiver.Mobile, o.Receiver.Phone = "1380000", "0" }, mobile, "1380000", "", "receiver.mobile phone.uncallable"},
		{"a hidden number is another fault", func(o *orderv1.Audited) { o.Receiver.Mobile = "138****0000" }, mobile, "138****0000", "", ""},

		{"a zero-width blank in a name", func(o *orderv1.Audited) { o.Receiver.Name = "李\u200b四" }, name, "李四", "receiver.name characters", ""},
		{"odd blanks around a name", func(o *orderv1.Audited) { o.Receiver.Name = "\u3000李\u00a0四\ufeff" }, name, "李 四", "receiver.name characters", ""},
		{"plain blanks around a name", func(o *orderv1.Audited) { o.Receiver.Name = " 李四 " }, name, "李四", "", ""},
		{"a name that lost a character", func(o *orderv1.Audited) { o.Receiver.Name = "李\ufffd" }, name, "李", "", "receiver.name text.character"},
		{"a rare character", func(o *orderv1.Audited) { o.Receiver.Name = "𠮷田·娜" }, name, "𠮷田·娜", "", ""},
		{"a joined name of Uyghur", func(o *orderv1.Audited) { o.Receiver.Name = "阿卜杜拉·买买提" }, name, "阿卜杜拉·买买提", "", ""},
		{"pictures in a town", func(o *orderv1.Audited) { o.Receiver.Town = "长安镇😀&" }, func(o *orderv1.Audited) string { return o.Receiver.Town }, "长安镇＆", "receiver.town characters", ""},
		{"a street in two lines", func(o *orderv1.Audited) { o.Receiver.Address = "A&B 座\r\n２幢\t🏠301" }, street, "A＆B 座 2幢 301", "receiver.address characters", ""},
		{"digits and letters that are pictures", func(o *orderv1.Audited) { o.Receiver.Address = "🅰座❶单元➓号 1️⃣楼 🔟室" }, street, "A座1单元10号 1楼 10室", "receiver.address characters", ""},
		{"signs that mean something", func(o *orderv1.Audited) { o.Receiver.Address = "No.5-7/8 #301 ①号㊥ 50%~" }, street, "No.5-7/8 #301 ①号㊥ 50%~", "", ""},
		{"half a picture in a remark", func(o *orderv1.Audited) { o.BuyerRemark = "快点\ufffd" }, func(o *orderv1.Audited) string { return o.BuyerRemark }, "快点", "buyer_remark characters", ""},

		{"a line end behind a code", func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "\ufeffTEA \n" }, code, "TEA", "lines[0].goods_code characters", ""},
		{"a mark inside a code", func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "TE\u200bA" }, code, "TE\u200bA", "", "lines[0].goods_code text.character"},
		{"a picture in a code", func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "TEA🍵" }, code, "TEA🍵", "", "lines[0].goods_code text.character"},
		{"a code's own signs", func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "T&E A/１-Ａ" }, code, "T&E A/１-Ａ", "", ""},
		{"a batch", func(o *orderv1.Audited) { o.Lines[0].Batch.BatchNo = "B1\u200e" }, func(o *orderv1.Audited) string { return o.Lines[0].Batch.BatchNo }, "B1", "lines[0].batch.batch_no characters", ""},
		{"a platform's number", func(o *orderv1.Audited) { o.PlatformOrderNos = []string{"1", "\u200b2"} }, func(o *orderv1.Audited) string { return o.PlatformOrderNos[1] }, "2", "platform_order_nos[1] characters", ""},
		{"a post code", func(o *orderv1.Audited) { o.Receiver.Postcode = "３1０\u200b000" }, func(o *orderv1.Audited) string { return o.Receiver.Postcode }, "310000", "receiver.postcode characters", ""},
		{"an e-mail", func(o *orderv1.Audited) { o.Receiver.Email = "a&b＠x.cn\u200b" }, func(o *orderv1.Audited) string { return o.Receiver.Email }, "a&b@x.cn", "receiver.email characters", ""},
		{"a company", func(o *orderv1.Audited) { o.Invoice = &orderv1.Invoice{Title: "某\u00ad公司&Co", TaxNo: "9133０"} }, func(o *orderv1.Audited) string { return o.Invoice.Title + " " + o.Invoice.TaxNo }, "某公司＆Co 91330", "invoice.title characters, invoice.tax_no characters", ""},
		{"what is not sent", func(o *orderv1.Audited) { o.Lines[0].Name = "茶🍵" }, func(o *orderv1.Audited) string { return o.Lines[0].Name }, "茶🍵", "", ""},

		{"the whole area again", func(o *orderv1.Audited) { o.Receiver.Address = "广东省东莞市长安镇示例路1号" }, street, "示例路1号", "receiver.address repeated", ""},
		{"the area again with noise in it", func(o *orderv1.Audited) { o.Receiver.Address = "广东省 东莞市\u3000长安镇\u200b示例路1号" }, street, "示例路1号", "receiver.address characters, receiver.address repeated", ""},
		{"the town again", func(o *orderv1.Audited) { o.Receiver.Address = "长安镇 示例路1号" }, street, "示例路1号", "receiver.address repeated", ""},
		{"province and city again", func(o *orderv1.Audited) { o.Receiver.Address = "广东东莞市示例路1号" }, street, "示例路1号", "receiver.address repeated", ""},
		{"a city's name in another word", func(o *orderv1.Audited) { o.Receiver.Address = "广东省东莞市场路1号" }, street, "广东省东莞市场路1号", "", ""},
		{"a street with the name of its city", func(o *orderv1.Audited) { o.Receiver.Address = "东莞路1号" }, street, "东莞路1号", "", ""},
		{"a road with the name of its town", func(o *orderv1.Audited) { o.Receiver.Address = "长安镇大道1号" }, street, "长安镇大道1号", "", ""},
		{"nothing but the area", func(o *orderv1.Audited) { o.Receiver.Address = "广东省东莞市长安镇" }, street, "长安镇", "receiver.address repeated", ""},
		{"a municipality", beijing("北京市北京市朝阳区建国路1号"), street, "建国路1号", "receiver.address repeated", ""},
		{"a municipality once", beijing("北京市朝阳区建国路1号"), street, "建国路1号", "receiver.address repeated", ""},
		{"a municipality in short", beijing("北京朝阳区建国路1号"), street, "建国路1号", "receiver.address repeated", ""},
		{"a road with the name of its county", beijing("朝阳路1号"), street, "朝阳路1号", "", ""},
		{"the name of another place", beijing("朝阳门外大街1号"), street, "朝阳门外大街1号", "", ""},
		{"a province without its suffix", func(o *orderv1.Audited) {
			o.Receiver.Province, o.Receiver.City, o.Receiver.County, o.Receiver.Town = "北京", "朝阳区", "", ""
			o.Receiver.Address = "北京市朝阳区建国路1号"
		}, street, "建国路1号", "receiver.address repeated", ""},
		{"an autonomous region", func(o *orderv1.Audited) {
			o.Receiver.Province, o.Receiver.City, o.Receiver.County, o.Receiver.Town = "广西壮族自治区", "桂林市", "叠彩区", ""
			o.Receiver.Address = "广西桂林市叠彩区中山北路1号"
		}, street, "中山北路1号", "receiver.address repeated", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := order()
			c.change(o)
			given := proto.CloneOf(o)
			got := clean.Order(o)
			var noted, wrong []string
			for _, one := range got.Changed {
				if noted = append(noted, one.Field+" "+one.What); !unicode.Is(unicode.Han, firstRune(one.Zh)) || one.En == "" {
					t.Errorf("not in both languages: %v", one)
				}
			}
			for _, one := range got.Wrong {
				if wrong = append(wrong, one.Field+" "+one.Code); one.ZH == "" || one.EN == "" {
					t.Errorf("not in both languages: %v", one)
				}
			}
			if diff := cmp.Diff([]string{c.want, c.noted, c.wrong}, []string{c.get(got.Order), strings.Join(noted, ", "), strings.Join(wrong, ", ")}); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(given, o, protocmp.Transform()); diff != "" {
				t.Error("the order that was given is another one:", diff)
			}
		})
	}
}

func mobile(o *orderv1.Audited) string { return o.Receiver.Mobile }
func phone(o *orderv1.Audited) string  { return o.Receiver.Phone }
func name(o *orderv1.Audited) string   { return o.Receiver.Name }
func street(o *orderv1.Audited) string { return o.Receiver.Address }
func code(o *orderv1.Audited) string   { return o.Lines[0].GoodsCode }

func beijing(street string) func(*orderv1.Audited) {
	return func(o *orderv1.Audited) {
		o.Receiver.Province, o.Receiver.City, o.Receiver.County, o.Receiver.Town = "北京市", "北京市", "朝阳区", ""
		o.Receiver.Address = street
	}
}

func firstRune(s string) rune { r, _ := utf8.DecodeRuneInString(s); return r }

func TestWhoCanBeCalled(t *testing.T) {
	for _, number := range []string{
		"13800000000", "138 0000 0000", "138-0000-0000", "+8613800000000", "+86 138-0000-0000", "008613800000000", "8613800000000", "(+86)13800000000",
		"13800000000-1234", "13800000000转1234", "13800000000,1234", "19912345678 ext 12", "张三 13800000000", "13800000000/13900000000", "0/13800000000", "无、13800000000", "13800000000 13900000000",
		"0755-1234567-8", "0755-12345678转123", "010-88888888", "(0755) 12345678", "075512345678", "+86 755 12345678", "+86-0755-12345678", "12345/0571-88886666", "88886666", "8888666",
		"+852 5123 4567", "85251234567", "51234567", "00852-51234567", "+853 66123456", "0912345678", "0912-345-678", "+886 912 345 678", "886912345678", "02-23456789", "+886-2-2345-6789",
		"400-820-8820", "4008208820转5", "800-820-8820", "95588", "950131234567890", "+1 212 555 0100", "+44 20 7946 0958",
	} {
		if !clean.Callable(number) {
			t.Errorf("%q cannot be called", number)
		}
	}
	for _, number := range []string{
		"", "   ", "无", "0", "-", "1", "110", "1380000", "138000000", "12345678901", "138000000001", "11111111111", "00000000", "88888888", "0000000-0", "没有电话", "null", "01012345", "0/0", "123456",
	} {
		if clean.Callable(number) {
			t.Errorf("%q can be called", number)
		}
	}
}

func TestMaskedAndCipheredTextsAreRecognised(t *testing.T) {
	for _, text := range []string{
		"王*", "138****8000", "＊＊", "~AgAAAAAz==~MTIz==~1~", "$wangxiaoming$Ab12Cd34Ef==$1$", "#Ab12Cd34Ef#xx#1#", "@Ab12Cd34Ef@1@",
		"AAGx1Y2z3A4b5C6d7E8f9G0h==", "浙江 AAGx1Y2z3A4b5C6d7E8f9G0h",
	} {
		if !clean.Masked(text) {
			t.Errorf("%q passes", text)
		}
	}
	for _, text := range []string{
		"", "王小明", "Alexandre de la Fontaine-Bleue", "#3 楼 #302", "~", "$", "@home", "13800138000", "13800138000-1234", "0571-88888888转12",
		"No. 12345678901234567890123456", "BUILDING-A-ROOM-1201-NORTH", "文三路 90 号 2 幢（东门）#101",
	} {
		if clean.Masked(text) {
			t.Errorf("%q is taken for masked", text)
		}
	}
	for number, want := range map[string]bool{
		"13800138000": false, "0571-88888888 ext 12": false, "+86 138-0013-8000": false, "Ab12Cd34==": true, "QWJDZGVm": true, "": false,
		"null": false, "None": false, "undefined": false, "UNKNOWN": false,
	} {
		if clean.Ciphered(number) != want {
			t.Errorf("ciphered %q: %v", number, !want)
		}
	}
}

// noise stands for all that must never be sent.
const noise = "\u200b\u202d\u2066\ufeff\u00ad\u00a0\u3000\r\n\t\x00\x7f\ufe0f\U000e0041😀☎\ufffd"

// Noise in any field of an order, also one that was added yesterday, is removed or refused.
func TestNoTextKeepsItsNoise(t *testing.T) {
	unsent := map[string]bool{"lines[0].name": true, "hold.reason": true}
	for _, place := range []string{"before", "inside", "behind"} {
		var fields []string
		o := order()
		o.Hold, o.Invoice, o.Marks = &orderv1.Hold{}, &orderv1.Invoice{}, &orderv1.Marks{}
		eachText(o.ProtoReflect(), "", func(path, text string) string {
			fields = append(fields, path)
			switch place {
			case "before":
				return noise + "a1"
			case "behind":
				return "a1" + noise
			default:
				return "a" + noise + "1"
			}
		})
		if len(fields) < 35 {
			t.Fatalf("only %d texts: %v", len(fields), fields)
		}
		got := clean.Order(o)
		said := map[string]bool{}
		for _, r := range got.Wrong {
			said[r.Field] = true
		}
		eachText(got.Order.ProtoReflect(), "", func(path, text string) string {
			if strings.ContainsAny(text, noise) && !said[path] && !unsent[path] {
				t.Errorf("%s %s: %q is sent", noise, path, text)
			}
			return text
		})
	}
}

// Noise in any field of a purchase order is removed or refused as well.
func TestNoTextOfAPurchaseOrderKeepsItsNoise(t *testing.T) {
	purchase := func() *purchasev1.Audited {
		return &purchasev1.Audited{
			Seller: "acme", Warehouse: "W01", No: "PO-1", Supplier: "TEA", Remark: "请整托入库",
			Lines: []*purchasev1.Line{{LineId: "1", GoodsCode: "TEA-250", WarehouseGoodsNo: "EMG1", Name: "茶", Quantity: 2}},
		}
	}
	if p := purchase(); clean.Purchase(p).Purchase != p {
		t.Error("a clean one is copied")
	}
	for _, place := range []string{noise + "a1", "a1" + noise, "a" + noise + "1"} {
		fields, p := 0, purchase()
		eachText(p.ProtoReflect(), "", func(string, string) string { fields++; return place })
		given := proto.CloneOf(p)
		got := clean.Purchase(p)
		if fields != 9 || !proto.Equal(given, p) {
			t.Errorf("%d texts, or the given one was changed", fields)
		}
		said := map[string]bool{}
		for _, r := range got.Wrong {
			said[r.Field] = true
		}
		eachText(got.Purchase.ProtoReflect(), "", func(path, text string) string {
			if strings.ContainsAny(text, noise) && !said[path] && path != "lines[0].name" {
				t.Errorf("%s: %q is sent", path, text)
			}
			return text
		})
		if again := clean.Purchase(got.Purchase); len(got.Wrong) == 0 && len(again.Changed) > 0 {
			t.Errorf("changed again: %v", again.Changed)
		}
		if !slices.ContainsFunc(got.Changed, func(c *documentv1.Cleaned) bool { return c.Field == "remark" && c.What == "characters" }) || said["remark"] {
			t.Errorf("the remark: %v, %v", got.Changed, got.Wrong)
		}
	}
}

// eachText replaces every text that m can have.
func eachText(m protoreflect.Message, path string, by func(path, text string) string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		at := path + string(fd.Name())
		switch {
		case fd.Kind() == protoreflect.StringKind && fd.IsList():
			list := m.Mutable(fd).List()
			for i := range list.Len() {
				list.Set(i, protoreflect.ValueOfString(by(at+"[0]", list.Get(i).String())))
			}
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(by(at, m.Get(fd).String())))
		case fd.Kind() == protoreflect.MessageKind && fd.IsList():
			for i, list := 0, m.Mutable(fd).List(); i < list.Len(); i++ {
				eachText(list.Get(i).Message(), at+"[0].", by)
			}
		case fd.Kind() == protoreflect.MessageKind && m.Has(fd):
			eachText(m.Mutable(fd).Message(), at+".", by)
		}
	}
}

// letters are the letters and digits of a text, of whatever width.
func letters(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '！' && r <= '～':
			r -= '！' - '!'
		case r >= 0x1D7CE && r <= 0x1D7FF:
			r = (r-0x1D7CE)%10 + '0'
		}
		if strings.ContainsRune("\u115f\u1160\u3164\uffa0", r) || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return r
	}, text)
}

// Cleaning is idempotent, keeps all letters and digits in their order, and leaves no noise.
func FuzzCleaningKeepsWhatIsMeant(f *testing.F) {
	for _, s := range []string{"", " ", "a  b", "李\u200b四", "\u202d13800000000\u202c", "１２Ａ－", "长安镇😀&", "a\n\r\tb", "\ufeff\u00ad", "𝟘𝟙", "👨‍👩‍👧", noise, "é\u0301", "\xff"} {
		f.Add(s, "广东省", "东莞市", "长安镇")
		f.Add("广东省"+s+"东莞市 长安镇"+s+"路", "广东省", "东莞", "长安镇")
	}
	f.Fuzz(func(t *testing.T, text, province, city, town string) {
		for _, s := range []*string{&text, &province, &city, &town} {
			*s = strings.ToValidUTF8(*s, "")
		}
		o := order()
		o.Receiver.Name, o.Receiver.Mobile, o.Receiver.Postcode, o.BuyerRemark, o.Lines[0].GoodsCode = text, text, text, text, text
		o.Receiver.Province, o.Receiver.City, o.Receiver.Town, o.Receiver.Address = province, city, town, text
		once := clean.Order(o).Order
		twice := clean.Order(once)
		if len(twice.Changed) > 0 || twice.Order != once && !proto.Equal(twice.Order, once) {
			t.Errorf("%q: changed again: %v", text, twice.Changed)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r >= 0x2776 && r <= 0x2793 || r >= 0x1F100 && r <= 0x1F5FF }) {
			return // pictures of letters and digits become these
		}
		for _, got := range []string{once.Receiver.Name, once.BuyerRemark, once.Lines[0].GoodsCode, once.Receiver.Postcode} {
			if letters(got) != letters(text) {
				t.Errorf("%q became %q", text, got)
			}
		}
		if got := letters(once.Receiver.Address); !strings.HasSuffix(letters(text), got) {
			t.Errorf("street %q became %q", text, got)
		}
		if strings.ContainsFunc(once.Receiver.Name, unicode.IsControl) || strings.Contains(once.Receiver.Name, "  ") {
			t.Errorf("%q became %q", text, once.Receiver.Name)
		}
	})
}

func BenchmarkOrder(b *testing.B) {
	o := order()
	b.ReportAllocs()
	for b.Loop() {
		if clean.Order(o).Order != o {
			b.Fatal("not clean")
		}
	}
}
