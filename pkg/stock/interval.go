package stock

import (
	"cmp"
	"slices"
	"time"
)

// Span is some time, in seconds of Unix time; both ends belong to it.
type Interval struct {
	From int64 `json:"f"`
	To   int64 `json:"t"`
}

// SpanOf makes a span of two moments; fractions of seconds are cut off.
func IntervalOf(from, to time.Time) Interval { return Interval{from.Unix(), to.Unix()} }

// Times are the ends of the span.
func (s Interval) Times() (from, to time.Time) {
	return time.Unix(s.From, 0).UTC(), time.Unix(s.To, 0).UTC()
}

func (s Interval) contains(at int64) bool { return s.From <= at && at <= s.To }

// Coverage is which time was read, without overlaps and in order.
type Coverage []Interval

// maxSpans is the most spans of a coverage; of more the oldest count as unread.
const maxIntervals = 500

// With is the coverage and a span more.
func (c Coverage) With(s Interval) Coverage {
	all := append(slices.Clone(c), s)
	slices.SortFunc(all, func(a, b Interval) int { return cmp.Compare(a.From, b.From) })
	merged := all[:1]
	for _, next := range all[1:] {
		last := &merged[len(merged)-1]
		if next.From <= last.To+1 {
			last.To = max(last.To, next.To)
		} else {
			merged = append(merged, next)
		}
	}
	if n := len(merged) - maxIntervals; n > 0 {
		merged = merged[n:]
	}
	return merged
}

// Has tells whether all of s was read.
func (c Coverage) Has(s Interval) bool {
	return slices.ContainsFunc(c, func(r Interval) bool { return r.From <= s.From && s.To <= r.To })
}

// Until is up to when all was read from start on; start when it was not read.
func (c Coverage) Until(start int64) int64 {
	for _, s := range c {
		if s.contains(start) {
			return s.To
		}
	}
	return start
}

// Unread are the spans between the first and the last that was read which were not.
func (c Coverage) Unread() []Interval {
	var unread []Interval
	for i := 1; i < len(c); i++ {
		unread = append(unread, Interval{c[i-1].To + 1, c[i].From - 1})
	}
	return unread
}
