package jdsandbox

import (
	"slices"
	"strconv"
	"time"
)

// maxDelay bounds how long one call may be delayed.
const maxDelay = 10 * time.Minute

// Kind is what goes wrong with a call.
type Kind string

// What can go wrong. Faults strike after the gateway's checks, instead of or around the service.
const (
	// LoseAnswer does the work, then cuts the connection.
	LoseAnswer Kind = "lose_answer"
	// Drop cuts the connection before any work.
	Drop Kind = "drop"
	// Error answers with JD's error envelope: a gateway code such as 43, 65 or 67, or a business refusal.
	Error Kind = "error"
	// HTTP answers with a bare HTTP status.
	HTTP Kind = "http"
	// HTML answers 200 with a page instead of JSON.
	HTML Kind = "html"
	// Empty answers 200 without a body.
	Empty Kind = "empty"
	// Truncated does the work and answers with the first half of the JSON.
	Truncated Kind = "truncated"
	// Slow delays the call and otherwise leaves it alone.
	Slow Kind = "slow"
)

// Work says whether the call has its effect.
type Work string

const (
	// WorkDone has the effect, whatever is answered; with Slow, before the delay.
	WorkDone Work = "done"
	// WorkNone has no effect.
	WorkNone Work = "none"
	// WorkLate, with Slow only, has the effect after the delay, although the caller may have given up and asked since.
	WorkLate Work = "late"
)

// Fault is something that goes wrong with some calls. Methods, Orders and Goods select the calls, Chance and Count how
// many of them; one of Chance and Count is required.
type Fault struct {
	// ID is assigned by the sandbox if empty.
	ID   string `json:"id,omitempty"`
	Kind Kind   `json:"kind"`
	// Methods, with or without "jingdong.", and ExchangeCall and RefreshCall; empty means all of these.
	Methods []string `json:"methods,omitempty"`
	// Orders are isvUUIDs, eclpSoNos, spPoOrderNos or poOrderNos; Goods are goodsNos or isvGoodsNos in an addOrder or
	// addPoOrder, goodsNos in other calls. Empty means any.
	Orders []string `json:"orders,omitempty"`
	Goods  []string `json:"goods,omitempty"`
	// Shops are shopNos of the call, Page its page; empty and 0 mean any.
	Shops []string `json:"shops,omitempty"`
	Page  int      `json:"page,omitempty"`
	// Chance of each such call, from 0 to 1; 0 means every one, up to Count.
	Chance float64 `json:"chance,omitempty"`
	// Count is how often it strikes; 0 means without end.
	Count int `json:"count,omitempty"`
	// Work defaults to WorkDone for Slow, to WorkNone for Error, HTTP, HTML and Empty; for the others it follows from the
	// kind.
	Work Work `json:"work,omitempty"`

	// Code, ZH, EN are what Error answers. The texts of the gateway's codes are filled in; without a code it is the Refusal
	// of the knobs.
	Code Code   `json:"code,omitempty"`
	ZH   string `json:"zh,omitempty"`
	EN   string `json:"en,omitempty"`
	// Status is what HTTP answers, default 503.
	Status int `json:"status,omitempty"`
	// Delay of Slow.
	Delay Duration `json:"delay,omitempty"`

	// Fired counts how often it struck. It is returned, not set.
	Fired int `json:"fired,omitempty"`
}

func (f *Fault) setDefaults() {
	switch f.Kind {
	case LoseAnswer, Truncated, Slow:
		orElse(&f.Work, WorkDone)
	default:
		orElse(&f.Work, WorkNone)
	}
	if f.Kind == HTTP {
		orElse(&f.Status, 503)
	}
}

func (f *Fault) check(at string, into *faults) {
	into.oneOf(at+"kind", string(f.Kind), string(LoseAnswer), string(Drop), string(Error), string(HTTP), string(HTML),
		string(Empty), string(Truncated), string(Slow))
	for i, m := range f.Methods {
		if m != ExchangeCall && m != RefreshCall {
			into.method(at+"methods["+strconv.Itoa(i)+"]", m)
		}
	}
	into.chance(at+"chance", f.Chance)
	into.when(f.Count < 0, at+"count", "must not be negative")
	into.when(f.Page < 0, at+"page", "must not be negative")
	into.when(f.Chance == 0 && f.Count == 0, at+"chance", "chance or count is required (chance: 1 strikes always)")
	switch f.Kind {
	case LoseAnswer, Truncated:
		into.oneOf(at+"work", string(f.Work), string(WorkDone))
	case Drop:
		into.oneOf(at+"work", string(f.Work), string(WorkNone))
	case Slow:
		into.oneOf(at+"work", string(f.Work), string(WorkDone), string(WorkLate))
		into.when(f.Delay <= 0 || time.Duration(f.Delay) > maxDelay, at+"delay", "must be over 0, at most %v", maxDelay)
	default:
		into.oneOf(at+"work", string(f.Work), string(WorkDone), string(WorkNone))
	}
	into.when(f.Kind == HTTP && (f.Status < 200 || f.Status > 599), at+"status", "must be from 200 to 599")
	into.when(f.Kind != Slow && f.Delay != 0, at+"delay", "is for slow only")
	into.when(f.Kind != HTTP && f.Status != 0, at+"status", "is for http only")
	into.when(f.Kind != Error && (f.Code != "" || f.ZH != "" || f.EN != ""), at+"code", "code, zh and en are for error only")
}

func (f *Fault) strikes(c *call) bool {
	if f.Count > 0 && f.Fired >= f.Count {
		return false
	}
	if len(f.Methods) > 0 && !slices.ContainsFunc(f.Methods, func(m string) bool { return shortMethod(m) == c.method }) {
		return false
	}
	if len(f.Shops) > 0 && !meet(f.Shops, append(split(c.fields["shopNos"]), c.fields["shopNo"])) || f.Page > 0 && f.Page != c.page() {
		return false
	}
	return (len(f.Orders) == 0 || meet(f.Orders, c.numbers)) && (len(f.Goods) == 0 || meet(f.Goods, c.goods))
}

// page is the page that a call asks for, 1 if it names none.
func (c *call) page() int {
	for _, name := range []string{"startPage", "pageNumber", "currentPage", "pageNo"} {
		if n, err := strconv.Atoi(c.fields[name]); err == nil {
			return n
		}
	}
	return 1
}

func meet(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// mishap is the effect of all faults on one call.
type mishap struct {
	// id and kind of the fault that decides the answer; kind is "" if none does.
	id   string
	kind Kind
	// work is false if the service is not reached.
	work    bool
	refusal *Refusal
	status  int
	// before and after are delays around the work.
	before, after time.Duration
}

// mishapOf decides which faults strike a call. The caller holds jd.mu.
func (jd *JD) mishapOf(c *call) mishap {
	m := mishap{work: true}
	attempt := -1
	for i := range jd.knobs.Faults {
		f := &jd.knobs.Faults[i]
		if m.kind != "" && f.Kind != Slow || !f.strikes(c) {
			continue
		}
		if f.Chance > 0 && f.Chance < 1 {
			if attempt < 0 {
				attempt = jd.attempt(c)
			}
			if jd.random("fault", f.ID, c.method, c.isvUUID+c.spPoOrderNo, c.eclpSoNo+c.poOrderNo, strconv.Itoa(attempt)).Float64() >= f.Chance {
				continue
			}
		}
		f.Fired++
		jd.count.Faults[f.Kind]++
		switch {
		case f.Kind == Slow && f.Work == WorkLate:
			m.before += time.Duration(f.Delay)
		case f.Kind == Slow:
			m.after += time.Duration(f.Delay)
		default:
			m.id, m.kind, m.work, m.status = f.ID, f.Kind, f.Work == WorkDone, f.Status
			if f.Kind == Error {
				m.refusal = jd.refusal(f.Code, f.ZH, f.EN)
			}
		}
		if m.id == "" {
			m.id = f.ID
		}
	}
	return m
}

// attempt numbers the calls about one order, so that random choices are the same in any interleaving. Calls that are not
// about a single order share one sequence.
func (jd *JD) attempt(c *call) int {
	key := c.method + "\x00" + c.isvUUID + c.spPoOrderNo + "\x00" + c.eclpSoNo + c.poOrderNo
	jd.attempts[key]++
	return jd.attempts[key]
}
