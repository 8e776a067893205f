package reconciler

import (
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

func addOutcome(o *item, seq uint64, name, id string) {
	o.addOutcome(bus.Stored{Seq: seq, Name: name, ID: id})
}

// The order that the warehouse has decides which of several audits under one number is redelivered.
func TestWhichAuditIsRedelivered(t *testing.T) {
	audit := func(n int) Audit { return Audit{Seq: uint64(n), Stored: time.Unix(int64(n), 0)} } //nolint:gosec // small
	o := &item{}
	for _, n := range []int{20, 10, 20, 30} { // in any order, and again
		o.addAudit(audit(n))
	}
	if len(o.Audits) != 3 || o.auditToRedeliver() != audit(30) || !o.First().Equal(audit(10).Stored) {
		t.Errorf("%+v, chosen %+v", o.Audits, o.auditToRedeliver())
	}
	addOutcome(o, 15, event.OrderAccepted.Name, "order.accepted/acme/A/1")
	addOutcome(o, 25, event.OrderFailed.Name, "order.failed/acme/A/1/outbound.reused")
	if o.auditToRedeliver() != audit(10) || o.Outcome != event.OrderAccepted.Name {
		t.Errorf("a later content was refused: %s, chosen %+v", o.Outcome, o.auditToRedeliver())
	}
	for n := range 2 * auditsKept {
		o.addAudit(audit(100 + n))
	}
	if len(o.Audits) != auditsKept || o.first() != audit(10) || o.last() != audit(100+2*auditsKept-1) {
		t.Errorf("kept %+v", o.Audits)
	}
}

// The last outcome counts, except that only an end undoes an acceptance.
func TestWhichOutcomeCounts(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{event.OrderHeld.Name, event.OrderFailed.Name}, event.OrderFailed.Name},
		{[]string{event.OrderFailed.Name, event.OrderHeld.Name}, event.OrderHeld.Name},
		{[]string{event.OrderHeld.Name, event.OrderAccepted.Name, event.OrderFailed.Name}, event.OrderAccepted.Name},
		{[]string{event.OrderAccepted.Name, event.OrderCancelled.Name, event.OrderAccepted.Name}, event.OrderCancelled.Name},
		{[]string{event.OrderAccepted.Name, event.OrderDelivered.Name, event.OrderHeld.Name}, event.OrderDelivered.Name},
	} {
		o := &item{}
		for i, name := range c.names {
			addOutcome(o, uint64(i)+1, name, name+"/acme/A/1") //nolint:gosec // small
		}
		if o.Outcome != c.want {
			t.Errorf("%v: %s", c.names, o.Outcome)
		}
	}
}

func TestEveryReasonIsListedOnce(t *testing.T) {
	seen := map[Reason]bool{}
	explains := true
	for _, w := range Reasons() {
		if seen[w] {
			t.Errorf("%s twice", w)
		}
		seen[w] = true
		if w.Explains() && !explains {
			t.Errorf("%s stands among those that do not explain", w)
		}
		explains = w.Explains()
	}
}
