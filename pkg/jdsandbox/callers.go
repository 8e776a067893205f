package jdsandbox

import "time"

// ViolationKind is a promise that a client broke.
type ViolationKind string

// What is counted.
const (
	// TwoDocuments: an isvUUID got a further document, whatever happened to the earlier ones. Counted per further document.
	TwoDocuments ViolationKind = "two_documents"
	// LineLiveTwice: an order line (department, salesPlatformOrderNo and orderLine, if all are sent) came under a second
	// isvUUID while a document under another was neither cancelled nor returned. Counted per line.
	LineLiveTwice ViolationKind = "line_live_twice"
	// TwoPurchases: an spPoOrderNo of a department got a further purchase order while an earlier one was not cancelled.
	// Counted per further document.
	TwoPurchases ViolationKind = "two_purchases"
	// QuotaExceeded and ConcurrencyExceeded: a call beyond the Quota. Counted per call.
	QuotaExceeded       ViolationKind = "quota_exceeded"
	ConcurrencyExceeded ViolationKind = "concurrency_exceeded"
	// BadSignature: a call whose sign does not match. Counted per call.
	BadSignature ViolationKind = "bad_signature"
)

// Violation is one broken promise.
type Violation struct {
	Seq                  int64         `json:"seq"`
	Kind                 ViolationKind `json:"kind"`
	At                   time.Time     `json:"at"`
	App                  string        `json:"app,omitempty"`
	Method               string        `json:"method,omitempty"`
	DepartmentNo         string        `json:"departmentNo,omitempty"`
	IsvUUID              string        `json:"isvUUID,omitempty"`
	SalesPlatformOrderNo string        `json:"salesPlatformOrderNo,omitempty"`
	OrderLine            string        `json:"orderLine,omitempty"`
	// EclpSoNos are the documents involved, the last one being the surplus.
	EclpSoNos []string `json:"eclpSoNos,omitempty"`
	// SpPoOrderNo and PoOrderNos are of purchase orders, the last one being the surplus.
	SpPoOrderNo string   `json:"spPoOrderNo,omitempty"`
	PoOrderNos  []string `json:"poOrderNos,omitempty"`
}

// Violations is what was found wrong since the state began. Counts is complete; Items holds the newest 1000.
type Violations struct {
	Total  int64                   `json:"total"`
	Counts map[ViolationKind]int64 `json:"counts"`
	Items  []Violation             `json:"items"`
}

const keepViolations = 1000

type violations struct {
	counts map[ViolationKind]int64
	items  ring[Violation]
}

func (v *violations) add(one Violation) {
	v.counts[one.Kind]++
	one.Seq = v.items.next + 1
	v.items.add(one, keepViolations)
}

// Call is a line of the log of calls.
type Call struct {
	Seq int64 `json:"seq"`
	// At is the arrival by the host's clock, TookMillis the time until the answer.
	At         time.Time `json:"at"`
	TookMillis int64     `json:"tookMillis"`
	App        string    `json:"app,omitempty"`
	Method     string    `json:"method,omitempty"`
	IsvUUID    string    `json:"isvUUID,omitempty"`
	EclpSoNo   string    `json:"eclpSoNo,omitempty"`
	// SpPoOrderNo and PoOrderNo are of calls about purchase orders; PoOrderNo may be a comma list.
	SpPoOrderNo string `json:"spPoOrderNo,omitempty"`
	PoOrderNo   string `json:"poOrderNo,omitempty"`
	// Done reports whether the service carried out the call, whatever was answered.
	Done bool `json:"done"`
	// Gone reports that the caller had hung up before the answer was ready: killed, or timed out.
	Gone bool `json:"gone,omitempty"`
	// Answer is what the caller got: "ok", "refused", or the kind of fault that replaced it ("lose_answer", "html" …).
	Answer string `json:"answer"`
	// Code is JD's code in the answer, "0" for ok; empty if the caller got none.
	Code Code `json:"code,omitempty"`
	// Fault is the id of the fault that struck.
	Fault string `json:"fault,omitempty"`
}

const keepCalls = 10_000

// Counters count since the start of the process or the last reset.
type Counters struct {
	Since time.Time `json:"since"`
	// Calls that arrived, by method; "" are those without a known one.
	Calls map[string]int64 `json:"calls"`
	// Codes answered, by code; "0" is success.
	Codes map[Code]int64 `json:"codes"`
	// Faults that struck, by kind.
	Faults map[Kind]int64 `json:"faults"`
	// Accepted counts new documents without the children of splits; Children counts those.
	Accepted int64 `json:"accepted"`
	Children int64 `json:"children"`
	// Refused counts addOrders that were answered with an error and not carried out, by code.
	Refused map[Code]int64 `json:"refused"`
	// Repeated counts addOrders under an isvUUID that had a document already, whatever the result.
	Repeated int64 `json:"repeated"`
	// LostAnswers counts calls that create, change or cancel something and were carried out without an answer reaching the caller.
	LostAnswers int64 `json:"lostAnswers"`
	// NotDone counts calls of any method that a fault kept from the service.
	NotDone int64 `json:"notDone"`
	// CancelAsked counts cancelOrders that reached the service, by answer.
	CancelAsked map[CancelAnswer]int64 `json:"cancelAsked"`
	// Purchases are the same of purchase orders.
	Purchases PurchaseCounters `json:"purchases"`
	// Exchanges and Refreshes count tokens issued, for a code and for a refresh token, whether or not the answer arrived;
	// RefreshesRefused counts refresh tokens that were not accepted.
	Exchanges        int64 `json:"exchanges"`
	Refreshes        int64 `json:"refreshes"`
	RefreshesRefused int64 `json:"refreshesRefused"`
	// MostInFlight is the highest number of simultaneous calls of one app.
	MostInFlight int `json:"mostInFlight"`
}

// PurchaseCounters count as those of sales orders do.
type PurchaseCounters struct {
	Accepted    int64                  `json:"accepted"`
	Refused     map[Code]int64         `json:"refused"`
	Repeated    int64                  `json:"repeated"`
	CancelAsked map[CancelAnswer]int64 `json:"cancelAsked"`
}

func newCounters(since time.Time) Counters {
	return Counters{
		Since: since, Calls: map[string]int64{}, Codes: map[Code]int64{}, Faults: map[Kind]int64{},
		Refused: map[Code]int64{}, CancelAsked: map[CancelAnswer]int64{},
		Purchases: PurchaseCounters{Refused: map[Code]int64{}, CancelAsked: map[CancelAnswer]int64{}},
	}
}

// ring keeps the newest entries.
type ring[T any] struct {
	items []T
	next  int64 // how many were ever added
}

func (r *ring[T]) add(v T, keep int) {
	if len(r.items) < keep {
		r.items = append(r.items, v)
	} else {
		r.items[int(r.next)%keep] = v
	}
	r.next++
}

// newest returns what is kept, oldest first.
func (r *ring[T]) newest() []T {
	at := 0
	if n := len(r.items); n > 0 && int64(n) < r.next {
		at = int(r.next) % n
	}
	return append(append(make([]T, 0, len(r.items)), r.items[at:]...), r.items[:at]...)
}

// meter counts one app's calls.
type meter struct {
	inFlight int
	arrivals []time.Time // a ring of the newest PerSecond ones
	next     int
}

// arrive counts a call and reports whether it is within the rate: at most limit in any second.
func (m *meter) arrive(now time.Time, limit int) bool {
	if len(m.arrivals) != limit {
		m.arrivals, m.next = make([]time.Time, limit), 0
	}
	if limit == 0 {
		return true
	}
	oldest := m.arrivals[m.next]
	m.arrivals[m.next] = now
	m.next = (m.next + 1) % limit
	return oldest.IsZero() || now.Sub(oldest) >= time.Second
}
