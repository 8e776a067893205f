package jdsandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bodies of the control API, besides Knobs, Fault, Document, Violations, Call, Counters and Token.
type (
	// DocumentPage is a page of documents. Next is the `after` of the following page; 0 means none.
	DocumentPage struct {
		Documents []Document `json:"documents"`
		Next      int64      `json:"next,omitempty"`
	}
	// CallPage is the newest calls, oldest first.
	CallPage struct {
		Calls []Call `json:"calls"`
	}
	// ClockState is the warehouse's clock beside the host's.
	ClockState struct {
		Now   time.Time `json:"now"`
		Speed float64   `json:"speed"`
		Host  time.Time `json:"host"`
	}
	// ClockChange advances the warehouse's clock, or changes its speed, or both in this order.
	ClockChange struct {
		Advance Duration `json:"advance"`
		Speed   *float64 `json:"speed"`
	}
	// TokenChange adds or replaces a token of the app; "" is the only app.
	TokenChange struct {
		Token
		App string `json:"app,omitempty"`
	}
	// TokenEnd ends a token, now if At is zero.
	TokenEnd struct {
		Token string    `json:"token"`
		At    time.Time `json:"at,omitzero"`
	}
	// Problem is the answer with any status but 2xx. Error lists all faults of a request, one on each line.
	Problem struct {
		Error string `json:"error"`
	}
)

const (
	pageLimit    = 1000
	defaultLimit = 100
)

// problem is an error with its HTTP status.
type problem struct {
	status int
	error
}

func bad(err error) error {
	if err == nil {
		return nil
	}
	return problem{http.StatusBadRequest, err}
}

// controlAPI is the handler of /_sandbox/.
func (jd *JD) controlAPI() http.Handler {
	mux := http.NewServeMux()
	var handle route = func(pattern string, do func(*http.Request) (any, error)) {
		verb, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(verb+" /_sandbox/"+path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			result, err := do(r)
			var p problem
			switch {
			case errors.As(err, &p):
				reply(w, p.status, Problem{p.Error()})
			case err != nil:
				reply(w, http.StatusInternalServerError, Problem{err.Error()})
			default:
				reply(w, http.StatusOK, result)
			}
		})
	}
	jd.routeKnobs(handle)
	jd.routeReads(handle)
	jd.routeClock(handle)
	jd.routeTokens(handle)
	jd.routeForeign(handle)
	jd.routeStock(handle)
	jd.routePurchases(handle)
	handle("POST reset", func(*http.Request) (any, error) { return struct{}{}, jd.Reset() })
	return http.NewCrossOriginProtection().Handler(jd.localOnly(mux))
}

// route registers do for "VERB path", the path being below /_sandbox/.
type route func(pattern string, do func(*http.Request) (any, error))

// routeKnobs registers what changes JD's behaviour.
func (jd *JD) routeKnobs(handle route) {
	handle("GET knobs", func(*http.Request) (any, error) { return jd.Knobs(), nil })
	handle("PUT knobs", func(r *http.Request) (any, error) {
		raw, err := io.ReadAll(r.Body)
		if err == nil {
			err = jd.changeKnobs(func(k *Knobs) error { return fill(raw, k) })
		}
		return jd.Knobs(), bad(err)
	})
	handle("POST faults", func(r *http.Request) (any, error) {
		var f Fault
		err := read(r, &f)
		if err == nil {
			f.ID, err = jd.AddFault(f)
		}
		f.setDefaults()
		return f, bad(err)
	})
	handle("DELETE faults", func(*http.Request) (any, error) { jd.ClearFaults(); return struct{}{}, nil })
	handle("DELETE faults/{id}", func(r *http.Request) (any, error) {
		if !jd.RemoveFault(r.PathValue("id")) {
			return nil, problem{http.StatusNotFound, errors.New("no such fault")}
		}
		return struct{}{}, nil
	})
}

// routeReads registers what is only read.
func (jd *JD) routeReads(handle route) {
	handle("GET documents", func(r *http.Request) (any, error) {
		p := query{r.URL.Query(), nil}
		q := Query{
			IsvUUID: p.Get("isvUUID"), DepartmentNo: p.Get("departmentNo"), Status: Code(p.Get("status")),
			After: p.number("after", 0, math.MaxInt64-1), Limit: int(p.number("limit", defaultLimit, pageLimit)),
		}
		if p.wrong != nil {
			return nil, bad(p.wrong)
		}
		jd.mu.Lock()
		defer jd.mu.Unlock()
		page := DocumentPage{Documents: []Document{}}
		docs, next := jd.page(q)
		page.Documents, page.Next = append(page.Documents, docs...), next
		return page, nil
	})
	handle("GET documents/{no}", func(r *http.Request) (any, error) {
		d, found := jd.Document(r.PathValue("no"))
		if !found {
			return nil, problem{http.StatusNotFound, errors.New("no such document")}
		}
		return d, nil
	})
	handle("GET violations", func(r *http.Request) (any, error) {
		v := jd.Violations()
		if kind := r.URL.Query().Get("kind"); kind != "" {
			v.Items = slices.DeleteFunc(v.Items, func(one Violation) bool { return string(one.Kind) != kind })
		}
		return v, nil
	})
	handle("GET calls", func(r *http.Request) (any, error) {
		p := query{r.URL.Query(), nil}
		after, limit := p.number("after", 0, math.MaxInt64), int(p.number("limit", defaultLimit, keepCalls))
		if p.wrong != nil {
			return nil, bad(p.wrong)
		}
		calls := slices.DeleteFunc(jd.Calls(), func(c Call) bool {
			return c.Seq <= after || p.Has("method") && c.Method != shortMethod(p.Get("method")) ||
				p.Has("isvUUID") && c.IsvUUID != p.Get("isvUUID") || p.Has("eclpSoNo") && c.EclpSoNo != p.Get("eclpSoNo")
		})
		return CallPage{calls[max(0, len(calls)-limit):]}, nil
	})
	handle("GET counters", func(*http.Request) (any, error) { return jd.Counters(), nil })
}

// routeClock registers the warehouse's clock.
func (jd *JD) routeClock(handle route) {
	clock := func() ClockState {
		now, speed := jd.Clock()
		return ClockState{Now: now.In(beijing), Speed: speed, Host: jd.now()}
	}
	handle("GET clock", func(*http.Request) (any, error) { return clock(), nil })
	handle("POST clock", func(r *http.Request) (any, error) {
		var c ClockChange
		if err := read(r, &c); err != nil {
			return nil, bad(err)
		}
		if c.Advance == 0 && c.Speed == nil {
			return nil, bad(errors.New("advance or speed is required"))
		}
		var f faults
		f.when(c.Advance < 0, "advance", "must not be negative: the clock does not go back")
		if c.Speed != nil {
			f.speed(*c.Speed)
		}
		if err := errors.Join(f...); err != nil {
			return nil, bad(err)
		}
		err := jd.Advance(time.Duration(c.Advance))
		if c.Speed != nil {
			err = errors.Join(err, jd.SetSpeed(*c.Speed))
		}
		return clock(), err
	})
}

// routeTokens registers what an app's owner does on JD's site.
func (jd *JD) routeTokens(handle route) {
	handle("POST tokens", func(r *http.Request) (any, error) {
		var t TokenChange
		err := read(r, &t)
		if err == nil {
			err = jd.SetToken(t.App, t.Token)
		}
		return struct{}{}, bad(err)
	})
	handle("POST tokens/expire", func(r *http.Request) (any, error) {
		var t TokenEnd
		if err := read(r, &t); err != nil {
			return nil, bad(err)
		}
		if !jd.ExpireToken(t.Token, t.At) {
			return nil, problem{http.StatusNotFound, errors.New("no such token")}
		}
		return struct{}{}, nil
	})
	handle("POST tokens/revoke", func(r *http.Request) (any, error) {
		var t TokenEnd
		if err := read(r, &t); err != nil {
			return nil, bad(err)
		}
		if !jd.Revoke(t.Token) {
			return nil, problem{http.StatusNotFound, errors.New("no such token of a consent")}
		}
		return struct{}{}, nil
	})
}

// localOnly admits callers from this host only, unless the Config says anyone. The requested host name must be this
// host's too; otherwise a page in a browser here could get in through a name of its own that points here.
func (jd *JD) localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if jd.master.Control != ControlAnyone {
			from, err := netip.ParseAddrPort(r.RemoteAddr)
			host := r.Host
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			_, numeric := netip.ParseAddr(strings.Trim(host, "[]"))
			if err != nil || !from.Addr().Unmap().IsLoopback() || numeric != nil && host != "localhost" {
				reply(w, http.StatusForbidden, Problem{"the control API is for callers on the same host (control: anyone opens it)"})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(body)
}

func read(r *http.Request, into any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return fill(raw, into)
}

// query reads the parameters of a GET.
type query struct {
	url.Values
	wrong error
}

func (q *query) number(name string, otherwise, most int64) int64 {
	if !q.Has(name) {
		return otherwise
	}
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || n < 0 || n > most {
		q.wrong = errors.Join(q.wrong, fmt.Errorf("%s: must be from 0 to %d", name, most))
	}
	return n
}
