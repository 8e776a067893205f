package jdsandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxStep bounds spans of the warehouse's time.
const maxStep = 365 * 24 * time.Hour

// Knobs are the settings that can be changed at run time. The zero value of each plays no fault, except Repeat. Chances
// are from 0 to 1.
type Knobs struct {
	// Latency is added to every call, before the work: uniformly between Min and Max. A caller who gives up meanwhile does
	// not stop the work.
	Latency Range `json:"latency"`
	// Quota limits each app; further calls are answered with code 2.
	Quota Quota `json:"quota"`
	// ClockSkew is how far the gateway's clock is ahead of the host's. The Date header shows the gateway's.
	ClockSkew Duration `json:"clock_skew"`
	// ClockWindow is how far a call's timestamp may be from the gateway's clock, default 6 minutes (docs/jd-api.md,
	// Timestamp: a later text says 10).
	ClockWindow Duration `json:"clock_window"`
	// Denied lists methods that nobody may call (code 24). Tokens have their own list.
	Denied []string `json:"denied"`

	// Repeat is the answer to an isvUUID that has a document already (unknown of JD). Default SecondDocument.
	Repeat Repeat `json:"repeat"`
	// Refusal is the code of business refusals, and their text if there is no better one. JD publishes neither; the default
	// code is outside the gateway's table, as JD's are.
	Refusal Refusal `json:"refusal"`
	// UnknownNumber is the answer to a query for an eclpSoNo that does not exist (unknown of JD). Default AnswerError.
	UnknownNumber Unknown `json:"unknown_number"`
	// AbsentRows makes ext.queryOrder return a row without eclpSoNo for a number it does not know, instead of none.
	AbsentRows bool `json:"absent_rows"`
	// FindLag is how long, by the host's clock, ext.queryOrder and queryPoOrder do not see a new document.
	FindLag Duration `json:"find_lag"`

	// Walk is the sequence of an order's statuses, in the warehouse's time. The first is reached at once. Default
	// DefaultWalk.
	Walk []Step `json:"walk"`
	// Jitter makes each step take between 1-Jitter and 1+Jitter times its time.
	Jitter float64 `json:"jitter"`
	// Cancel is how cancellations end.
	Cancel Cancel `json:"cancel"`
	// Split makes several documents of one.
	Split Split `json:"split"`
	// OwnCancel lets JD cancel orders on its own. Of a split order it cancels the last child.
	OwnCancel OwnCancel `json:"own_cancel"`
	// Short lets less leave than was ordered: one line of the order, never all of it.
	Short Lot `json:"short"`
	// Rejected lets the buyer refuse the parcel: 10035, 10037, 10038 instead of 10034.
	Rejected Lot `json:"rejected"`
	// Packages is the maximum number of packages (each with a waybill) of one document. Default 1.
	Packages int `json:"packages"`

	// Decimals is the maximum number of decimal places of an amount (price, receivable, insuredValue), default 4, as ERPs
	// send them; 2 is what the documentation shows.
	Decimals int `json:"decimals"`
	// Spelling of the envelope: "responce" (JD's own, default), "response", or "version": "responce" to callers that send
	// v=2.0 and "response" to others.
	Spelling string `json:"spelling"`
	// HistoryShuffled and HistoryDoubled distort orderStatusList.
	HistoryShuffled bool `json:"history_shuffled"`
	HistoryDoubled  bool `json:"history_doubled"`
	// ScalarsAsArrays wraps every scalar of a result in a list of one.
	ScalarsAsArrays bool `json:"scalars_as_arrays"`
	// Numbers: "" as documented, "text" turns numbers into text, "numbers" turns codes that are text into numbers.
	Numbers string `json:"numbers"`
	// ExtraKeys adds unknown keys.
	ExtraKeys bool `json:"extra_keys"`

	// Auth is the behaviour of the authorisation server.
	Auth Auth `json:"auth"`

	// Flow and Stock are about stock and its movements.
	Flow  Flow       `json:"flow"`
	Stock StockKnobs `json:"stock"`

	// Purchases are about purchase orders.
	Purchases PurchaseKnobs `json:"purchases"`

	// Faults are tried in this order; the first that strikes decides, and Slow is added.
	Faults []Fault `json:"faults"`
}

// SpellingByVersion is a Spelling.
const SpellingByVersion = "version"

// Range is a span of time. Max below Min means exactly Min.
type Range struct {
	Min Duration `json:"min"`
	Max Duration `json:"max"`
}

// Quota is what one app may do; 0 means no limit. Every call counts, also those that fail and those that are refused for
// the quota.
type Quota struct {
	// PerSecond is the maximum of calls within any second.
	PerSecond int `json:"calls_per_second"`
	// Concurrent is the maximum of calls at a time.
	Concurrent int `json:"concurrency"`
}

// Refusal is an answer in JD's error envelope.
type Refusal struct {
	Code Code   `json:"code"`
	ZH   string `json:"zh,omitempty"`
	EN   string `json:"en,omitempty"`
}

// Repeat is what happens to an isvUUID that has a document already.
type Repeat string

// The three answers that JD may give.
const (
	SecondDocument Repeat = "second"
	SameNumber     Repeat = "same"
	RefuseRepeat   Repeat = "refuse"
)

// Unknown is the answer about an eclpSoNo that does not exist.
type Unknown string

// An error_response, an empty result, or no result key at all.
const (
	AnswerError   Unknown = "error"
	AnswerEmpty   Unknown = "empty"
	AnswerMissing Unknown = "missing"
)

// Step is one status in the walk of an order.
type Step struct {
	Code Code `json:"code"`
	// After is the warehouse's time since the previous step.
	After Duration `json:"after"`
	// Chance that an order takes this step at all; 0 means always.
	Chance float64 `json:"chance,omitempty"`
}

// DefaultWalk is the walk of an order by JD's list of statuses, about a day and a half long. Not every order passes a
// sorting centre's own codes.
func DefaultWalk() []Step {
	return []Step{
		{Code: "10010"},
		{Code: statusWaybill, After: Duration(10 * time.Second)},
		{Code: "10014", After: Duration(time.Minute)},
		{Code: "10015", After: Duration(20 * time.Minute)},
		{Code: "10016", After: Duration(10 * time.Minute)},
		{Code: "10017", After: Duration(20 * time.Minute)},
		{Code: "10018", After: Duration(10 * time.Minute)},
		{Code: "10019", After: Duration(3 * time.Hour)},
		{Code: statusOut, After: Duration(time.Hour), Chance: 0.5},
		{Code: statusSorted, After: Duration(4 * time.Hour), Chance: 0.5},
		{Code: statusSentOn, After: Duration(time.Hour), Chance: 0.5},
		{Code: "10033", After: Duration(10 * time.Hour)},
		{Code: "10034", After: Duration(16 * time.Hour)},
	}
}

// Lot selects orders: by chance, and by numbers (isvUUID).
type Lot struct {
	Chance float64  `json:"chance"`
	Orders []string `json:"orders"`
}

// CancelAnswer is the result of a cancellation.
type CancelAnswer string

// Inner codes 1, 3 and 2 of cancelOrder (docs/jd-api.md, Cancel).
const (
	Cancelled     CancelAnswer = "cancelled"
	Cancelling    CancelAnswer = "cancelling"
	CancelRefused CancelAnswer = "refused"
)

// Cancel is how cancellations end.
type Cancel struct {
	// Answers by the order's status; a status not listed here refuses. Default DefaultCancelAnswers.
	Answers map[Code]CancelAnswer `json:"answers"`
	// Takes is how long Cancelling lasts in the warehouse's time, default 5 to 15 minutes. The warehouse works on meanwhile:
	// an order that is packed before is not cancelled.
	Takes Range `json:"takes"`
	// RefusedLater is the chance that Cancelling ends with 10029 although there was time.
	RefusedLater float64 `json:"refused_later"`
}

// DefaultCancelAnswers cancels at once up to 10014, later while picking, and refuses from then on. What JD does at 10017
// is unknown.
func DefaultCancelAnswers() map[Code]CancelAnswer {
	return map[Code]CancelAnswer{
		"10009": Cancelled, "10010": Cancelled, "10014": Cancelled,
		"100130": Cancelled, "100131": Cancelled, "100132": Cancelled,
		"10015": Cancelling, "10016": Cancelling,
		"10017": CancelRefused,
	}
}

// Split makes several documents of one order of at least two pieces. The children have the same isvUUID and hold lines,
// packages and waybills; the parent names them in splitEclpSoNos.
type Split struct {
	Lot
	// Parts is the number of children, default 2; an order with fewer pieces gets fewer.
	Parts int `json:"parts"`
	// At is the status at which the split happens, default 10010.
	At Code `json:"at"`
	// ParentStays keeps the parent at that status; otherwise it shows what all its living children have reached.
	ParentStays bool `json:"parent_stays"`
	// ListChildren makes ext.queryOrder return the children too, under the same isvUUID.
	ListChildren bool `json:"list_children"`
}

// OwnCancel lets JD cancel orders on its own some time after the status At, default 10015.
type OwnCancel struct {
	Lot
	At Code `json:"at"`
}

func (k *Knobs) setDefaults() {
	if k.Latency.Max < k.Latency.Min {
		k.Latency.Max = k.Latency.Min
	}
	orElse(&k.Repeat, SecondDocument)
	orElse(&k.UnknownNumber, AnswerError)
	orElse(&k.Refusal.Code, "5001")
	orElse(&k.Refusal.ZH, "业务处理失败")
	orElse(&k.Spelling, "responce")
	orElse(&k.Decimals, 4)
	orElse(&k.ClockWindow, Duration(6*time.Minute))
	orElse(&k.Packages, 1)
	orElse(&k.Split.Parts, 2)
	orElse(&k.Split.At, "10010")
	orElse(&k.OwnCancel.At, "10015")
	orElse(&k.Cancel.Takes, Range{Min: Duration(5 * time.Minute), Max: Duration(15 * time.Minute)})
	if k.Cancel.Takes.Max < k.Cancel.Takes.Min {
		k.Cancel.Takes.Max = k.Cancel.Takes.Min
	}
	k.Auth.setDefaults()
	k.stockDefaults()
	k.Purchases.setDefaults()
	if len(k.Walk) == 0 {
		k.Walk = DefaultWalk()
	}
	if len(k.Cancel.Answers) == 0 {
		k.Cancel.Answers = DefaultCancelAnswers()
	}
	k.Faults = slices.Clone(k.Faults) // the caller's list stays unchanged
	for i := range k.Faults {
		k.Faults[i].setDefaults()
	}
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// check returns every fault, each by its key.
func (k *Knobs) check() error {
	var f faults
	f.chance("jitter", k.Jitter)
	f.chance("split.chance", k.Split.Chance)
	f.chance("own_cancel.chance", k.OwnCancel.Chance)
	f.chance("short.chance", k.Short.Chance)
	f.chance("rejected.chance", k.Rejected.Chance)
	f.chance("cancel.refused_later", k.Cancel.RefusedLater)
	f.when(k.Latency.Min < 0 || time.Duration(k.Latency.Max) > maxDelay, "latency", "must be from 0 to %v", maxDelay)
	f.when(k.Quota.PerSecond < 0 || k.Quota.PerSecond > 1_000_000, "quota.calls_per_second", "must be from 0 to 1000000")
	f.when(k.Quota.Concurrent < 0, "quota.concurrency", "must not be negative")
	f.when(k.FindLag < 0, "find_lag", "must not be negative")
	f.when(k.Packages < 1 || k.Packages > 99, "packages", "must be from 1 to 99")
	f.when(k.Split.Parts < 2 || k.Split.Parts > 20, "split.parts", "must be from 2 to 20")
	f.when(k.Cancel.Takes.Min < 0 || time.Duration(k.Cancel.Takes.Max) > maxStep, "cancel.takes", "must be from 0 to %v", maxStep)
	k.Auth.check(&f)
	k.checkStock(&f)
	k.Purchases.check(&f)
	f.when(len(k.Walk) > 100, "walk", "must have at most 100 steps")
	f.oneOf("repeat", string(k.Repeat), string(SecondDocument), string(SameNumber), string(RefuseRepeat))
	f.oneOf("unknown_number", string(k.UnknownNumber), string(AnswerError), string(AnswerEmpty), string(AnswerMissing))
	f.oneOf("spelling", k.Spelling, "responce", "response", SpellingByVersion)
	f.when(k.Decimals < 1 || k.Decimals > 10, "decimals", "must be from 1 to 10")
	f.when(k.ClockWindow < 0 || time.Duration(k.ClockWindow) > maxStep, "clock_window", "must be from 0 to %v", maxStep)
	f.oneOf("numbers", k.Numbers, "", "text", "numbers")
	for code, a := range k.Cancel.Answers {
		f.oneOf("cancel.answers."+string(code), string(a), string(Cancelled), string(Cancelling), string(CancelRefused))
	}
	for i, s := range k.Walk {
		at := fmt.Sprintf("walk[%d].", i)
		f.when(s.Code == "", at+"code", "is required")
		f.when(s.After < 0 || time.Duration(s.After) > maxStep, at+"after", "must be from 0 to %v", maxStep)
		f.chance(at+"chance", s.Chance)
	}
	f.when(len(k.Walk) > 0 && k.Walk[0].Chance != 0, "walk[0].chance", "must be absent: the first step is there at once")
	for i := range k.Denied {
		f.method(fmt.Sprintf("denied[%d]", i), k.Denied[i])
	}
	ids := map[string]bool{}
	for i := range k.Faults {
		k.Faults[i].check(fmt.Sprintf("faults[%d].", i), &f)
		if id := k.Faults[i].ID; id != "" {
			f.when(ids[id], fmt.Sprintf("faults[%d].id", i), "is used twice")
			ids[id] = true
		}
	}
	return errors.Join(f...)
}

// clone is deep, so that a caller's copy never changes.
func (k *Knobs) clone() Knobs {
	raw, err := json.Marshal(k)
	if err == nil {
		var c Knobs
		if err = json.Unmarshal(raw, &c); err == nil {
			return c
		}
	}
	panic("jdsandbox: knobs do not survive JSON: " + err.Error()) // a type of this file is wrong
}

// faults collects the faults of settings.
type faults []error

func (f *faults) when(wrong bool, key, format string, args ...any) {
	if wrong {
		*f = append(*f, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
}

func (f *faults) chance(key string, v float64) {
	f.when(!(v >= 0 && v <= 1), key, "must be from 0 to 1")
}

func (f *faults) oneOf(key, v string, allowed ...string) {
	f.when(!slices.Contains(allowed, v), key, "%q is not one of %q", v, allowed)
}

func (f *faults) method(key, name string) {
	_, known := methods[shortMethod(name)]
	f.when(!known, key, "%q is not a method of this sandbox", name)
}

// shortMethod drops the prefix that all methods have in common.
func shortMethod(name string) string { return strings.TrimPrefix(name, methodPrefix) }
