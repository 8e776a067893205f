package event_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
)

func TestTheSameFactHasTheSameID(t *testing.T) {
	e := event.OrderAudited.About("acme", "A1", time.Now(), &orderv1.Audited{}, event.Revision(2))
	if e.ID != "order.audited/acme/A1/2" || e.Subject() != "order.audited.acme" || e.Key != "A1" {
		t.Errorf("%+v", e)
	}
	if m := event.OrderAudited.New(); m == nil || m.GetSeller() != "" {
		t.Error("New makes no empty message")
	}
}

func TestSubjectsAreParsed(t *testing.T) {
	for _, c := range []struct{ subject, name, seller string }{
		{"order.audited", "order.audited", ""},
		{"order.audited.acme", "order.audited", "acme"},
		{"order.status.changed.a_b-1", "order.status.changed", "a_b-1"},
		{"order.cancel.requested", "order.cancel.requested", ""},
		{"order.cancelled.acme", "order.cancelled", "acme"},
		{"order.cancel.unknown.acme", "order.cancel.unknown", "acme"},
		{"order.audited.ACME", "order.audited.ACME", ""},
		{"order.audited.a.b", "order.audited.a.b", ""},
		{"seller.changed.acme", "seller.changed", "acme"},
		{"order.nonsense", "order.nonsense", ""},
	} {
		if name, seller := event.Split(c.subject); name != c.name || seller != c.seller {
			t.Errorf("%s: %q of %q", c.subject, name, seller)
		}
	}
	if _, err := event.SellerOn("order.audited", "order.audited."+strings.Repeat("a", 33)); err == nil {
		t.Error("a seller of 33 characters")
	}
}

func TestInternalSubjectsAreParsed(t *testing.T) {
	if s, err := event.SellerOn(event.PollDue.Name, event.DueSubject(event.TickPoll, "acme")); err != nil || s != "acme" {
		t.Errorf("%q, %v", s, err)
	}
	if s, err := event.SellerOn(event.ReleaseDue.Name, event.DueSubject(event.TickRelease, "acme")); err != nil || s != "acme" {
		t.Errorf("%q, %v", s, err)
	}
	if _, err := event.SellerOn(event.PollDue.Name, event.DueSubject(event.TickRelease, "acme")); err == nil {
		t.Error("another kind of tick")
	}
	place := event.Place("W 01", "店.ESP1")
	if !event.ValidToken(place) || place == event.Place("W 01", "店.ESP2") || place == event.Place("W 01店", ".ESP1") {
		t.Errorf("place %q", place)
	}
	if long := event.Place(strings.Repeat("w", 64), strings.Repeat("s", 64)); !event.ValidToken(long) {
		t.Errorf("place %q", long)
	}
	if s, err := event.SellerOn(event.VMIDue.Name, event.At(event.DueSubject(event.TickVMI, "acme"), place)); err != nil || s != "acme" {
		t.Errorf("%q, %v", s, err)
	}
	if _, err := event.SellerOn(event.VMIDue.Name, "due.vmi.acme.W01.x"); err == nil {
		t.Error("a place of two tokens")
	}
	if s, err := event.SellerOn(event.OrderAudited.Name, "order.audited.acme"); err != nil || s != "acme" {
		t.Errorf("%q, %v", s, err)
	}
	subject := event.DeadLetterSubject(event.Held, "order-pusher", "ORDERS", 17)
	kind, consumer, err := event.ParseDeadLetter(subject)
	if err != nil || kind != event.Held || consumer != "order-pusher" || subject != "held.order-pusher.ORDERS.17" {
		t.Errorf("%s: %s %s %v", subject, kind, consumer, err)
	}
	for _, bad := range []string{"", "dlq", "dlq.a.b", "dlq.a.b.x", "order.a.b.1", "dlq.a.b.1.2"} {
		if _, _, err := event.ParseDeadLetter(bad); err == nil {
			t.Errorf("%q is taken for a dead letter", bad)
		}
	}
	for s, want := range map[string]bool{"ORDERS-17-abc-r9": true, "": false, "a.b": false, "a b": false, "*": false, strings.Repeat("x", 65): false} {
		if event.ValidToken(s) != want {
			t.Errorf("token %q", s)
		}
	}
}

func TestOnlyOneTokenOfASubjectNamesASeller(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "acme_2-b": true, strings.Repeat("a", 32): true,
		"": false, strings.Repeat("a", 33): false, "Acme": false, "a.b": false, "a b": false, "a*": false, ">": false, "京": false, "a\n": false,
	} {
		if event.ValidSeller(name) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
}

// Every consumer of a fact needs its seller; a fact without one would end as a dead letter.
func TestEveryFactSaysWhoseItIs(t *testing.T) {
	for _, f := range event.Facts() {
		if f.Reserved {
			continue
		}
		m := f.New()
		d := m.ProtoReflect().Descriptor()
		sample, err := os.ReadFile(filepath.Join("..", "..", "proto", filepath.Dir(d.ParentFile().Path()), "testdata", string(d.Name())+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(sample, m); err != nil {
			t.Fatal(err)
		}
		if event.SellerIn(m) == "" {
			t.Errorf("%s (%s) has no seller", f.Name, d.FullName())
		}
	}
}

// A topic without its row in the table would be laid out nowhere, permitted to nobody and shown to nobody.
func TestEveryTopicHasItsRow(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`= Topic\[[^\]]+\]\{"([a-z.]+)"\}`).FindAllStringSubmatch(string(text), -1) {
			n++
			if _, known := event.FactNamed(m[1]); !known && !internal(m[1]) {
				t.Errorf("%s has no row in facts, and is no tick", m[1])
			}
		}
	}
	if n < len(event.Facts()) {
		t.Errorf("%d topics, %d facts", n, len(event.Facts()))
	}
}

// internal reports whether a topic travels on ticks only.
func internal(name string) bool { return strings.HasSuffix(name, ".due") }
