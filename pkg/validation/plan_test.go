package validation

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

func files() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		documentv1.File_document_v1_document_proto, orderv1.File_order_v1_order_proto, purchasev1.File_purchase_v1_purchase_proto,
		sellerv1.File_seller_v1_seller_proto, stockv1.File_stock_v1_stock_proto, vmiv1.File_vmi_v1_vmi_proto,
	}
}

// kinds are all types of our .proto files.
func kinds() (list []protoreflect.MessageDescriptor) {
	for _, file := range files() {
		for i := range file.Messages().Len() {
			list = append(list, file.Messages().Get(i))
		}
	}
	return list
}

// golden reads the sample of a type, nil when it has none.
func golden(tb testing.TB, kind protoreflect.MessageDescriptor) proto.Message {
	tb.Helper()
	folder, name, _ := strings.Cut(string(kind.FullName()), ".v1.")
	text, err := os.ReadFile(filepath.Join("../../proto", folder, "v1/testdata", name+".json"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	of, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		tb.Fatal(err)
	}
	m := of.New().Interface()
	if err := protojson.Unmarshal(text, m); err != nil {
		tb.Fatal(err)
	}
	return m
}

// What the plan passes breaks no rule, and what it does not pass gets the reasons that protovalidate gives. The first is a promise; the
// second of our own types, so that none of them becomes slow unnoticed.
func TestThePlanNeverPassesWhatBreaksARule(t *testing.T) {
	for _, kind := range kinds() {
		p := planOf(kind)
		if p == nil {
			continue
		}
		sample := golden(t, kind)
		t.Run(string(kind.FullName()), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := protoreflect.Message(dynamicpb.NewMessage(kind))
				if sample != nil && rapid.IntRange(0, 3).Draw(t, "from a sample") > 0 {
					m = proto.Clone(sample).ProtoReflect()
					for range rapid.IntRange(0, 3).Draw(t, "changes") {
						change(t, m)
					}
				} else {
					fill(t, m, 0)
				}
				want, err := interpreted(m.Interface(), "invalid")
				if err != nil {
					t.Fatal(err)
				}
				if keeps := p.keeps(m); keeps != (len(want) == 0) {
					t.Fatalf("passes: %v, breaks %+v", keeps, want)
				}
				got, err := Broken(m.Interface(), "invalid")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" && p.overlong(m) == nil {
					t.Fatal(diff)
				}
			})
		})
	}
}

// change sets one field of m, or of a message in it, to something else.
func change(t *rapid.T, m protoreflect.Message) {
	fd := m.Descriptor().Fields().Get(rapid.IntRange(0, m.Descriptor().Fields().Len()-1).Draw(t, "field"))
	switch {
	case rapid.IntRange(0, 5).Draw(t, "clear") == 0:
		m.Clear(fd)
	case fd.Message() != nil && !fd.IsMap() && m.Has(fd) && rapid.IntRange(0, 3).Draw(t, "into") > 0:
		if !fd.IsList() {
			change(t, m.Mutable(fd).Message())
		} else if list := m.Mutable(fd).List(); list.Len() > 0 {
			change(t, list.Get(rapid.IntRange(0, list.Len()-1).Draw(t, "element")).Message())
		}
	default:
		set(t, m, fd, 0)
	}
}

func fill(t *rapid.T, m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		if rapid.IntRange(0, 3).Draw(t, "set") > 0 {
			set(t, m, m.Descriptor().Fields().Get(i), depth)
		}
	}
}

func set(t *rapid.T, m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) {
	switch {
	case fd.IsMap() || depth > 3:
	case fd.IsList():
		list := m.Mutable(fd).List()
		for range rapid.SampledFrom([]int{0, 1, 2, 2, 51, 501}).Draw(t, "elements") {
			if fd.Message() == nil {
				list.Append(value(t, fd))
				continue
			}
			e := list.NewElement()
			if list.Len() < 3 {
				fill(t, e.Message(), depth+1)
			}
			list.Append(e)
		}
	case fd.Message() != nil:
		fill(t, m.Mutable(fd).Message(), depth+1)
	default:
		m.Set(fd, value(t, fd))
	}
}

func value(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text(t))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.SampledFrom([]int64{-1, 0, 1, 2, 1000, 1_000_000, 1_000_001, 10_000_001, 1 << 60}).Draw(t, "number"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.SampledFrom([]int32{-1, 0, 1, 1000, 1001, 100_001}).Draw(t, "number"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(-1, 9).Draw(t, "enum")))
	}
	return fd.Default()
}

func text(t *rapid.T) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{
			"", "A", "acme", "a,b", "SO-1", "1", "0", "19.90", "1.999", "0128.5000", "123456789.99000", "1234567890", ".5", "1.", "999.99",
			"2026-03-05", "2026-3-5", "张三", "a b", "a\n", "\n", "é", "~", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("长", 64),
			strings.Repeat("x", 101), strings.Repeat("长", 201), strings.Repeat("x", 4001),
		}),
		rapid.StringMatching(`[0-9]{0,10}(\.[0-9]{0,4}0{0,9})?`),
		rapid.StringMatching(`[A-Za-z0-9_,é-]{0,40}`),
	).Draw(t, "text")
}

// What ERPs publish most is checked by a plan.
func TestWhatERPsPublishHasAPlan(t *testing.T) {
	for _, m := range []proto.Message{&orderv1.Audited{}, &orderv1.CancelRequested{}, &purchasev1.Audited{}} {
		kind := m.ProtoReflect().Descriptor()
		if p := planOf(kind); p == nil || len(p.fields) == 0 || !p.keeps(golden(t, kind).ProtoReflect()) {
			t.Errorf("%s has no plan", kind.FullName())
		}
	}
	if planOf((&sellerv1.SecretRef{}).ProtoReflect().Descriptor()) != nil || planOf((&sellerv1.Setup{}).ProtoReflect().Descriptor()) != nil {
		t.Error("a rule that is not understood, and a plan")
	}
}

func TestAFormMatchesOnlyWhatItsExpressionMatches(t *testing.T) {
	patterns := []string{`^a?ab$`, `^(ab){1,2}(abc)?$`, `^[^a]{2}$`, `^(a|b)?$`, `^[a-c]*c$`, `^(x(yz?){0,2})?$`}
	for pattern := range forms {
		patterns = append(patterns, pattern)
	}
	understood := 0
	for _, pattern := range patterns {
		f, ok := formOf(pattern)
		if !ok {
			continue
		}
		understood++
		re := regexp.MustCompile(pattern)
		t.Run(pattern, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := rapid.OneOf(rapid.StringMatching(pattern), rapid.Custom(text), rapid.StringMatching(`[abcxyz]{0,6}`)).Draw(t, "text")
				if f.matches(s) && !re.MatchString(s) {
					t.Fatalf("%q", s)
				}
			})
		})
	}
	if understood < len(forms)+4 {
		t.Errorf("%d expressions understood of %d", understood, len(patterns))
	}
	for _, pattern := range []string{`abc`, `^abc`, `abc$`, `^(?i)abc$`, `^a|b$`, `^\b$`, `^(a?)*$`, `^(?m)a$`, `^.$`} {
		if _, ok := formOf(pattern); ok {
			t.Errorf("%s is taken for a form", pattern)
		}
	}
}

// A message of 256 KiB has room for 80 000 lines that each break three rules.
func TestAnEndlessListIsSaidInOneReason(t *testing.T) {
	m := proto.CloneOf(golden(t, (&orderv1.Audited{}).ProtoReflect().Descriptor()).(*orderv1.Audited))
	for range 1001 {
		m.Lines = append(m.Lines, &orderv1.Line{})
	}
	broken, err := Broken(m, "invalid")
	if err != nil || len(broken) != 1 {
		t.Fatalf("%d reasons, %v", len(broken), err)
	}
	all, err := interpreted(m, "invalid")
	if err != nil || len(all) < 3000 {
		t.Fatalf("%d reasons, %v", len(all), err)
	}
	for _, r := range all {
		if r.Field == "lines" {
			if diff := cmp.Diff(r, broken[0]); diff != "" {
				t.Error(diff)
			}
			return
		}
	}
	t.Error("the number of lines breaks no rule")
}

// BenchmarkBroken validates an order: by the plan, and by protovalidate.
func BenchmarkBroken(b *testing.B) {
	m := golden(b, (&orderv1.Audited{}).ProtoReflect().Descriptor())
	for name, check := range map[string]func() bool{
		"plan":          func() bool { broken, _ := Broken(m, "invalid"); return broken == nil },
		"protovalidate": func() bool { broken, _ := interpreted(m, "invalid"); return broken == nil },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !check() {
					b.Fatal("the sample breaks a rule")
				}
			}
		})
	}
}
