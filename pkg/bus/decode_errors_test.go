package bus

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	orderv1 "stockbridge/proto/order/v1"
)

// A body is read a second time only where the value of an enum may be unknown, and what is found is the same.
func TestUnknownValuesAreFoundWithoutReadingAllTwice(t *testing.T) {
	kind := (&orderv1.Audited{}).ProtoReflect().Descriptor()
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString(`{"invoice":{`)
		for i := range rapid.IntRange(0, 4).Draw(t, "fields") {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(rapid.SampledFrom([]string{`"kind"`, `"kin\u0064"`, `"title"`, `"Kind"`, `"x"`}).Draw(t, "name"))
			b.WriteString(rapid.SampledFrom([]string{":", " : ", ":\n"}).Draw(t, "colon"))
			b.WriteString(rapid.SampledFrom([]string{
				`"KIND_VAT"`, `"KIND_ORDINARY"`, `"PAPER"`, `"KIND\u005fVAT"`, `2`, `null`, `"\"kind\":\"PAPER\""`, `"kind"`, `{"kind":"PAPER"}`, `["kind","PAPER"]`,
			}).Draw(t, "value"))
		}
		b.WriteString(`}` + rapid.SampledFrom([]string{"}", `,"kind":"PAPER"}`, `,"lines":[{"kind":"PAPER"}]}`, ""}).Draw(t, "end"))
		body := []byte(b.String())
		path, fd := unknownEnumValue(body, kind)
		wantPath, want := "", protoreflect.FieldDescriptor(nil)
		if strings.Contains(b.String(), `"kind"`) { // an escaped name alone was never looked for
			wantPath, want = parsedUnknown(body, kind)
		}
		if path != wantPath || (fd == nil) != (want == nil) {
			t.Fatalf("%s: %q, and by reading all %q", body, path, wantPath)
		}
	})
}
