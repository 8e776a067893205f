package ctl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestDocumentsAreReadFromLinesAndLaidOut(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       []string
	}{
		{"one a line", "{\"a\":1}\n{\"a\":2}\n", []string{`1 {"a":1}`, `2 {"a":2}`}},
		{"no line break at the end, blank lines, Windows", "\ufeff{\"a\":1}\r\n\r\n{\"a\":2}", []string{`1 {"a":1}`, `3 {"a":2}`}},
		{"laid out", "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n{\"a\":2}\n", []string{`1 {"a":{"b":1}}`, `6 {"a":2}`}},
		{"a broken line does not hide the next", "{\"a\":\n{\"a\":2}\nrubbish\n{\"a\":3}", []string{`1 !`, `2 {"a":2}`, `3 !`, `4 {"a":3}`}},
		{"two on a line are no document", "{\"a\":1}{\"a\":2}\n{\"a\":3}", []string{`1 !`, `2 {"a":3}`}},
		{"cut off at the end", "{\"a\":1}\n{\"a\":", []string{`1 {"a":1}`, `2 !`}},
		{"nothing", "\n\n", nil},
		{"too long ends the reading", "{\"a\":1}\n{\"a\":\"" + strings.Repeat("x", maxDocument) + "\"}\n{\"a\":3}", []string{`1 {"a":1}`, "line"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			for d, err := range documents(strings.NewReader(row.text)) {
				switch {
				case err != nil:
					got = append(got, "line")
				case !json.Valid(d.text):
					got = append(got, fmt.Sprintf("%d !", d.line))
				default:
					got = append(got, fmt.Sprintf("%d %s", d.line, squeeze(strings.TrimSpace(string(d.text)))))
				}
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
