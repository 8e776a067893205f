package bus

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

const (
	natsPrefix = "Nats-"
	// maxError is the most that a shelved error's text takes, bytes.
	maxError = 4 << 10
	// maxText bounds each of a reason's texts, bytes.
	maxText = 1 << 10
	// maxCarried bounds the foreign headers on a shelved message, bytes; with ours they stay below the server's 64 KiB.
	maxCarried = 40 << 10
	// headerDropped names what did not fit.
	headerDropped = event.OwnPrefix + "Dropped"
)

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// carry makes the headers under which a message travels inside: its own, except that the server's control words are
// renamed (they would act again) and nobody else's Bridge- headers are believed.
func carry(original nats.Header) nats.Header {
	out := make(nats.Header, len(original)+12)
	size := 0
	// The small ones first: those of CloudEvents are among them, a flood is not.
	keys := slices.SortedFunc(maps.Keys(original), func(a, b string) int {
		return headerSize(a, original[a]) - headerSize(b, original[b])
	})
	var dropped []string
	for _, k := range keys {
		if hasPrefixFold(k, event.OwnPrefix) {
			continue
		}
		if size += headerSize(k, original[k]); size > maxCarried {
			dropped = append(dropped, cut(k, 60))
			continue
		}
		if hasPrefixFold(k, natsPrefix) {
			out[event.OwnPrefix+k] = original[k]
		} else {
			out[k] = original[k]
		}
	}
	if len(dropped) > 0 {
		out.Set(headerDropped, cut(strings.Join(dropped, ","), maxText))
	}
	return out
}

// uncarry gives back the headers that the message first came with.
func uncarry(h nats.Header) nats.Header {
	out := make(nats.Header, len(h))
	for k, v := range h {
		switch {
		case hasPrefixFold(k, event.OwnPrefix+natsPrefix):
			out[k[len(event.OwnPrefix):]] = v
		case hasPrefixFold(k, event.OwnPrefix), hasPrefixFold(k, natsPrefix):
		default:
			out[k] = v
		}
	}
	return out
}

func headerSize(k string, values []string) int {
	n := 0
	for _, v := range values {
		n += len(k) + len(v) + 4
	}
	return n
}

func headersSize(h nats.Header) int {
	n := 0
	for k, v := range h {
		n += headerSize(k, v)
	}
	return n
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func setIf(h nats.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

func setAll(h nats.Header, name string, values []string) {
	if len(values) > 0 {
		h[name] = values
	}
}

func reasonText(r fault.Reason) string {
	for _, s := range []*string{&r.Code, &r.Field, &r.ZH, &r.EN, &r.RemoteCode, &r.RemoteText} {
		*s = cut(*s, maxText)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	return string(text)
}

func reasonFrom(text string) (r fault.Reason) {
	if json.Unmarshal([]byte(text), &r) != nil {
		return fault.Reason{}
	}
	return r
}
