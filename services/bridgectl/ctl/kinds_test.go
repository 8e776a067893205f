package ctl

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

// A dead letter of any fact shows its fields, and hides only what is personal.
func TestEveryFactIsShown(t *testing.T) {
	for _, f := range event.Facts() {
		m := f.New()
		d := m.ProtoReflect().Descriptor()
		sample := filepath.Join("..", "..", "..", "proto", filepath.Dir(d.ParentFile().Path()), "testdata", string(d.Name())+".json")
		body, err := os.ReadFile(sample)
		if err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(body, m); err != nil {
			t.Fatal(err)
		}
		seller := strconv.Quote(event.SellerIn(m))
		if text, _ := (&app{}).bodyOf(bus.DeadLetter{Subject: f.Name + ".acme", Body: body}, false); !strings.Contains(text, seller) {
			t.Errorf("%s: its seller %s is not shown:\n%s", f.Name, seller, text)
		}
	}
}
