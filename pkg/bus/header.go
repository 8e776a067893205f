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
	// maxError bounds the error text of a dead letter, bytes.
	maxError = 4 << 10
	// maxText bounds each text of a reason, bytes.
	maxText = 1 << 10
	// maxWrapped bounds the publisher's headers on an internal message, bytes; with ours they stay below the server's
	// 64 KiB.
	maxWrapped = 40 << 10
	// headerDropped names the headers that did not fit.
	headerDropped = event.OwnPrefix + "Dropped"
)

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// wrapHeaders makes the headers of an internal copy: the publisher's own, with the server's control headers renamed
// (they would act again) and the publisher's Bridge- headers removed (they could be forged).
func wrapHeaders(original nats.Header) nats.Header {
	out := make(nats.Header, len(original)+12)
	size := 0
	// Small ones first: those of CloudEvents are small, a flood is not.
	keys := slices.SortedFunc(maps.Keys(original), func(a, b string) int {
		return headerSize(a, original[a]) - headerSize(b, original[b])
	})
	var dropped []string
	for _, k := range keys {
		if hasPrefixFold(k, event.OwnPrefix) {
			continue
		}
		if size += headerSize(k, original[k]); size > maxWrapped {
			dropped = append(dropped, truncate(k, 60))
			continue
		}
		if hasPrefixFold(k, natsPrefix) {
			out[event.OwnPrefix+k] = original[k]
		} else {
			out[k] = original[k]
		}
	}
	if len(dropped) > 0 {
		out.Set(headerDropped, truncate(strings.Join(dropped, ","), maxText))
	}
	return out
}

// unwrapHeaders restores the headers that the publisher sent.
func unwrapHeaders(h nats.Header) nats.Header {
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

// truncate shortens s to at most n bytes of whole characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func setNonEmpty(h nats.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

func setValues(h nats.Header, name string, values []string) {
	if len(values) > 0 {
		h[name] = values
	}
}

func reasonText(r fault.Reason) string {
	for _, s := range []*string{&r.Code, &r.Field, &r.ZH, &r.EN, &r.RemoteCode, &r.RemoteText} {
		*s = truncate(*s, maxText)
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
