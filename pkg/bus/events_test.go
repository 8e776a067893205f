package bus_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestEventsAreReadToTheEnd(t *testing.T) {
	b := bustest.Start(t, services()...)
	var all []event.Event
	for i := range 300 { // several batches
		no := fmt.Sprintf("A%d", i)
		all = append(all, audit([]string{"acme", "other"}[i%2], no), accepted(order("acme", no)))
	}
	publish(t, b, all...)
	publish(t, b, event.SellerChanged.About("acme", "acme", time.Now(), &sellerv1.Changed{Seller: "acme"}))
	// As an ERP publishes it, without a seller in the subject; and one that a client library would take for an error.
	body, err := protojson.Marshal(order("acme", "bare"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		header map[string][]string
		body   []byte
	}{{nil, body}, {map[string][]string{"Status": {"409"}, "Description": {"Consumer Deleted"}}, nil}} {
		if _, _, err := b.PublishRaw(t.Context(), "order.audited", m.header, m.body); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		q    bus.EventQuery
		n    int
	}{
		{"all", bus.EventQuery{}, 603},
		{"by name", bus.EventQuery{Names: []string{"order.audited"}}, 302},
		{"by two names of two streams", bus.EventQuery{Names: []string{"order.accepted", "seller.changed"}}, 301},
		{"by seller", bus.EventQuery{Names: []string{"order.audited"}, Seller: "other"}, 150 + 2},
		{"by seller, all names", bus.EventQuery{Seller: "other"}, 150 + 2},
		{"by key", bus.EventQuery{Names: []string{"order.audited", "order.accepted"}, Key: "A7"}, 2 + 2},
		{"from", bus.EventQuery{Names: []string{"order.accepted"}, From: 250}, 51},
		{"none", bus.EventQuery{Names: []string{"order.shipped"}}, 0},
	} {
		n, last := 0, map[string]uint64{}
		err := b.Events(t.Context(), c.q, func(s bus.Stored) error {
			if n++; s.Seq <= last[s.Stream] || s.At.IsZero() {
				t.Errorf("%s: %s/%d after %d", c.name, s.Stream, s.Seq, last[s.Stream])
			}
			last[s.Stream] = s.Seq
			return nil
		})
		if err != nil || n != c.n {
			t.Errorf("%s: %d, want %d, %v", c.name, n, c.n, err)
		}
	}
	stop := errors.New("stop")
	if err := b.Events(t.Context(), bus.EventQuery{}, func(bus.Stored) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the reader's: %v", err)
	}
	err = b.Events(t.Context(), bus.EventQuery{Names: []string{"order.audited"}, Seller: "acme", Key: "A4"}, func(s bus.Stored) error {
		m, err := bus.Decode(event.OrderAudited, s)
		if s.Key == "" {
			return nil
		}
		if err != nil || m.GetOutboundNo() != "A4" || s.Name != "order.audited" || s.Seller != "acme" || s.ID == "" {
			t.Errorf("%+v, %v", s, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAnEventIsPublishedWithItsCloudEventsHeaders(t *testing.T) {
	b := bustest.Start(t, services()...)
	at := time.Date(2026, 9, 1, 12, 0, 0, 5e6, time.FixedZone("CST", 8*3600))
	e := event.OrderAudited.About("acme", "A1", at, order("acme", "A1"), event.Revision(1))
	publish(t, b, e)
	publish(t, b, e) // the same fact again: stored once
	n := 0
	err := b.Events(t.Context(), bus.EventQuery{}, func(s bus.Stored) error {
		n++
		for k, want := range map[string]string{
			"ce-id": "order.audited/acme/A1/1", "ce-type": "order.audited", "ce-source": "test", "ce-subject": "A1", "ce-specversion": "1.0",
			"ce-time": "2026-09-01T12:00:00.005+08:00", "Content-Type": "application/json", "Nats-Msg-Id": "order.audited/acme/A1/1",
		} {
			if got := s.Header[k]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %v", k, got)
			}
		}
		if s.Subject != "order.audited.acme" || !strings.Contains(string(s.Body), `"outbound_no"`) {
			t.Errorf("%s: %s", s.Subject, s.Body)
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestWhatCannotBePublishedIsSaidClearly(t *testing.T) {
	b := bustest.Start(t, services()...)
	if err := b.Publish(t.Context(), audit("no such seller!", "A1")); err == nil {
		t.Error("a seller that cannot stand in a subject")
	}
	for _, size := range []int{1_000_001, 2 << 20} {
		if _, _, err := b.PublishRaw(t.Context(), "order.audited", nil, make([]byte, size)); !errors.Is(err, bus.ErrTooLarge) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, _, err := b.PublishRaw(t.Context(), "nobody.listens", nil, nil); err == nil {
		t.Error("a subject of no stream")
	}
}

func TestTooLargeForHandlingIsStillStored(t *testing.T) {
	b := bustest.Start(t, services()...)
	body := make([]byte, 990_000)
	if _, _, err := b.PublishRaw(t.Context(), "order.audited", nil, body); err != nil {
		t.Fatal(err)
	}
	serve(t, b, bus.Serving{}, nil, nil)
	if s := parseDeadLetter(t, b, 1)[0]; len(s.Body) != len(body) || s.Reason.Code != "body.toolarge" {
		t.Errorf("%d bytes, %+v", len(s.Body), s.Reason)
	}
}

func TestAStreamReportsItsEndAndARestore(t *testing.T) {
	b := bustest.Start(t, services()...)
	if seq, _, err := b.End(t.Context(), event.OrderAudited.Name); err != nil || seq != 0 {
		t.Errorf("an empty stream ends at %d, %v", seq, err)
	}
	publish(t, b, audit("acme", "1"), audit("acme", "2"))
	seq, at, err := b.End(t.Context(), event.OrderCancelRequested.Name) // of the same stream
	if err != nil || seq != 2 {
		t.Fatalf("it ends at %d, %v", seq, err)
	}
	for _, c := range []struct {
		name string
		seq  uint64
		at   time.Time
		want bool
	}{
		{"its end", seq, at, true},
		{"before its beginning", 0, time.Time{}, true},
		{"beyond its end", seq + 1, at, false},
		{"another message under the number", seq, at.Add(time.Millisecond), false},
	} {
		if got, err := b.Holds(t.Context(), event.OrderAudited.Name, c.seq, c.at); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if _, _, err := b.End(t.Context(), "no.such"); err == nil {
		t.Error("an event of no stream")
	}
}

// However many are published together, all of them are stored, once and in order.
func TestManyEventsAreStoredInTheirOrder(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var events []event.Event
	for i := range 1000 {
		events = append(events, accepted(order("acme", fmt.Sprintf("A%04d", i))))
	}
	publish(t, b, events...)
	publish(t, b, events...) // again, after an answer that was lost
	i := 0
	err := b.Events(t.Context(), bus.EventQuery{Seller: "acme", Names: []string{event.OrderAccepted.Name}}, func(s bus.Stored) error {
		if i < len(events) && s.ID != events[i].ID {
			t.Errorf("number %d is %s, want %s", i, s.ID, events[i].ID)
		}
		i++
		return nil
	})
	if err != nil || i != len(events) {
		t.Errorf("%d are stored, want %d; %v", i, len(events), err)
	}
}
