package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
)

// errWrong ends a command with exitWrong after the command has printed what is wrong.
var errWrong = errors.New("something is wrong with what was asked about")

// hinted is an error with advice on what to try next.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

func hint(err error, format string, args ...any) error {
	return &hinted{error: err, hint: fmt.Sprintf(format, args...)}
}

// usageError is a command line that was not understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error {
	command := "bridgectl"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if at := parse.Context.Selected(); at != nil {
			command = at.FullPath()
		} else if path := parse.Context.Path; len(path) > 0 {
			command = path[len(path)-1].Node().FullPath()
		}
	}
	return usageError{hint(err, "%s --help", command)}
}

// misused is a usageError that the grammar could not find.
func misused(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// printError prints an error for people: what is wrong, in their language where there is a choice, and what to try
// next.
func (a *app) printError(err error) {
	var faults seller.Faults
	var reason fault.Reason
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			fmt.Fprintf(a.Err, "error: %s\n", clean(a.say(f)))
		}
	case errors.As(err, &reason):
		text := err.Error()
		if before, _, ok := strings.Cut(text, reason.Error()); ok {
			text = before + a.say(reason)
		}
		fmt.Fprintf(a.Err, "error: %s\n", clean(text))
	default:
		fmt.Fprintf(a.Err, "error: %s\n", clean(err.Error()))
	}
	if h := hintOf(err); h != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", h)
	}
}

func hintOf(err error) string {
	var h *hinted
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.Is(err, bus.ErrTopology):
		return "bridgectl topology apply"
	case errors.Is(err, context.DeadlineExceeded):
		return "is the broker overloaded or without a leader? try again, or ask `nats server check jetstream`"
	default:
		return ""
	}
}

// say is a reason in the operator's language: the field, the text, and the warehouse's own text.
func (a *app) say(r fault.Reason) string {
	text := r.EN
	if a.lang == "zh" && r.ZH != "" {
		text = r.ZH
	}
	if text == "" {
		text = r.Code
	}
	if r.Field != "" && !strings.Contains(text, r.Field) {
		text = r.Field + ": " + text
	}
	if remote := strings.TrimSpace(r.RemoteCode + " " + r.RemoteText); remote != "" {
		text += " [" + remote + "]"
	}
	return text
}
