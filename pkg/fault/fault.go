// Package fault says what to do about failed work.
//
// Work that fails returns an error; the marks of this package on it are the instruction. An error without a mark is
// transient: nothing happened, try again with back-off. Only bus.settle acts on the marks; this package knows neither
// the bus nor the warehouse.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Class says what to do about failed work.
type Class int

const (
	// Transient: nothing happened. Try again with back-off; it counts as an attempt.
	Transient Class = iota
	// Wait: nothing is wrong, only too early. Try again after the given time; it burns no attempt.
	Wait
	// Held: it waits until a cause is gone, then continues automatically. It burns no attempt.
	Held
	// Refused: it never works as it is. A person has to change something.
	Refused
	// Unclear: it may have happened. Look it up at the remote before doing it again.
	Unclear
)

// String is the class as used in headers, metrics and output.
func (c Class) String() string {
	switch c {
	case Wait:
		return "wait"
	case Held:
		return "held"
	case Refused:
		return "permanent"
	case Unclear:
		return "unknown"
	default:
		return "transient"
	}
}

// Reason says why, for a machine and for people in their languages. It holds nothing secret or personal.
type Reason struct {
	// Code is stable, lower case, with dots: "shop.unknown". docs/events.md lists them.
	Code string
	// Field is the path of the field at fault ("lines[0].quantity"), or empty.
	Field string
	// ZH and EN say what is wrong and what to do.
	ZH, EN string
	// RemoteCode and RemoteText are the remote's own, when the remote refused.
	RemoteCode, RemoteText string
}

func (r Reason) Error() string {
	text := r.Code
	if r.Field != "" {
		text += " (" + r.Field + ")"
	}
	if r.EN != "" {
		text += ": " + r.EN
	}
	if r.RemoteCode != "" || r.RemoteText != "" {
		text += fmt.Sprintf(" [%s %s]", r.RemoteCode, r.RemoteText)
	}
	return text
}

type fault struct {
	class Class
	after time.Duration
	cause string
	// throttled: the same holds for all work of the seller.
	throttled bool
	err       error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// Permanent marks work that never succeeds as it is. Give it a Reason, wrapped or bare, so that the event and the dead
// letter can name the field. Permanent(nil) is nil, as with all marks.
func Permanent(err error) error { return mark(fault{class: Refused, err: err}) }

// RetryAfter marks work that came too early: a rate limit, a pause, another worker on it. The outermost mark counts.
func RetryAfter(after time.Duration, err error) error {
	return mark(fault{class: Wait, after: after, err: err})
}

// Throttle is RetryAfter for a wait that all work of the same seller has, such as that for its quota.
func Throttle(after time.Duration, err error) error {
	return mark(fault{class: Wait, after: after, throttled: true, err: err})
}

// Hold marks work that waits for cause, e.g. "shop:acme/S01". What removes the cause also releases what it holds.
func Hold(cause string, err error) error { return mark(fault{class: Held, cause: cause, err: err}) }

// Unknown marks a call that may have had its effect although no answer says so.
func Unknown(err error) error { return mark(fault{class: Unclear, err: err}) }

func mark(f fault) error {
	if f.err == nil {
		return nil
	}
	return &f
}

// Of is the class of err by its outermost mark; Transient when there is none.
func Of(err error) Class {
	var f *fault
	if errors.As(err, &f) {
		return f.class
	}
	return Transient
}

// After is how long a Wait error asks to wait; 0 for others.
func After(err error) time.Duration {
	var f *fault
	if errors.As(err, &f) {
		return f.after
	}
	return 0
}

// Throttled reports whether the wait of err is one that all work of the seller has.
func Throttled(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.throttled
}

// Cause is what a Held error waits for; "" for others.
func Cause(err error) string {
	var f *fault
	if errors.As(err, &f) {
		return f.cause
	}
	return ""
}

// ReasonOf finds the Reason in err. Without one it makes a Reason of the given code from the error's own text.
func ReasonOf(err error, code string) Reason {
	var r Reason
	if errors.As(err, &r) {
		return r
	}
	return Reason{Code: code, ZH: err.Error(), EN: err.Error()}
}
