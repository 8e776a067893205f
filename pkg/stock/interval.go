package stock

import (
	"cmp"
	"slices"
	"time"
)

// Interval is a span of time in seconds of Unix time. Both ends belong to it.
type Interval struct {
	From int64 `json:"f"`
	To   int64 `json:"t"`
}

// IntervalOf makes an interval of two moments; fractions of seconds are cut off.
func IntervalOf(from, to time.Time) Interval { return Interval{from.Unix(), to.Unix()} }

// Times returns the ends.
func (s Interval) Times() (from, to time.Time) {
	return time.Unix(s.From, 0).UTC(), time.Unix(s.To, 0).UTC()
}

func (s Interval) contains(at int64) bool { return s.From <= at && at <= s.To }

// Coverage is the time that was read: intervals in order, without overlaps.
type Coverage []Interval

// maxIntervals is the most intervals of a coverage. Beyond it the oldest are dropped and count as unread.
const maxIntervals = 500

// With returns the coverage with s added.
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

// Has reports whether all of s was read.
func (c Coverage) Has(s Interval) bool {
	return slices.ContainsFunc(c, func(r Interval) bool { return r.From <= s.From && s.To <= r.To })
}

// Until returns the end of what was read without interruption from start on; start itself when it was not read.
func (c Coverage) Until(start int64) int64 {
	for _, s := range c {
		if s.contains(start) {
			return s.To
		}
	}
	return start
}

// Unread returns the unread intervals between the first and the last that was read.
func (c Coverage) Unread() []Interval {
	var unread []Interval
	for i := 1; i < len(c); i++ {
		unread = append(unread, Interval{c[i-1].To + 1, c[i].From - 1})
	}
	return unread
}
