package stock

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

const (
	// tolerance is by how many seconds the warehouse's clock may date a row later than the one that follows it.
	tolerance = 5
	// maxUnlinked is the most unlinked balances of a series. Beyond it nobody can say what is missing: the series is
	// Unproved.
	maxUnlinked = 400
	// maxLinks is how many links a series remembers, for late rows that belong between two linked ones.
	maxLinks = 32
)

// Proof says how far a figure can be trusted.
type Proof string

// The proofs.
const (
	// Proved: each row begins with the balance at which another ended.
	Proved Proof = "proved"
	// Broken: rows are missing; the figure computed without them is not the shop's stock.
	Broken Proof = "broken"
	// Unproved: the rows carry no balances, or too much is missing.
	Unproved Proof = "unproved"
)

// Movement is what a row does to a series.
type Movement struct {
	// No is the row's number; At is in seconds of Unix time.
	No string
	At int64
	// Before and After are the balances around the row; they count only when Linked. Change is After less Before.
	Before, After, Change int64
	Linked                bool
}

// Balance is a balance and when it stood, in seconds of Unix time.
type Balance struct {
	Value int64
	At    int64
}

// link joins two rows: the second begins with the balance at which the first ended.
type link struct {
	Value int64
	From  int64
	To    int64
}

// Series is all that is known of the stock of one kind of goods: the sum of its changes, and the balances that do not
// link up. The zero value knows nothing.
//
// Rows may be added in any order and give the same series, as far as links are remembered. No row may be added twice.
type Series struct {
	// Code is the ERP's code of the goods, as published last.
	Code string
	// Rows is how many rows there are, Sum the total of their changes, Last the time of the latest, in seconds of
	// Unix time.
	Rows int64
	Sum  int64
	Last int64
	// Opening is the balance before the earliest row, and FirstNo that row's number.
	Opening Balance
	FirstNo string
	// Checkpoint is when the latest row with a balance was, in seconds of Unix time. Earlier rows without one do not
	// change that balance.
	Checkpoint int64
	// Unproved is permanent: see Proof.
	Unproved bool

	// Starts are balances before rows, and Ends balances after rows, that link up with nothing. The opening balance
	// is not among them.
	Starts []Balance
	Ends   []Balance
	Links  []link
}

// Gap is a place where rows are missing.
type Gap struct {
	// Left is the balance after the last row before the gap, Right the balance before the first row behind it.
	Left, Right Balance
}

// Interval is the time in which the missing rows lie.
func (g Gap) Interval() Interval {
	return Interval{From: min(g.Left.At, g.Right.At), To: max(g.Left.At, g.Right.At)}
}

// Add adds a row.
func (c *Series) Add(e Movement) {
	first := c.Rows == 0 || e.At < c.Opening.At || e.At == c.Opening.At && numberLess(e.No, c.FirstNo)
	was := c.Opening
	switch {
	case first && (e.Linked || c.Rows == 0):
		c.Opening, c.FirstNo = Balance{Value: e.Before, At: e.At}, e.No
	case first: // it carries no balance
		c.Opening.At, c.FirstNo = e.At, e.No
	}
	if e.Linked {
		c.Checkpoint = max(c.Checkpoint, e.At)
	} else if e.At <= c.Checkpoint {
		c.Opening.Value -= e.Change // the checkpoint's balance already contains it
	}
	c.Rows++
	c.Sum += e.Change
	c.Last = max(c.Last, e.At)
	if !e.Linked {
		c.markUnproved()
	}
	if c.Unproved {
		return
	}
	switch {
	case !first:
		c.Starts = append(c.Starts, Balance{e.Before, e.At})
		c.relink(e.Before)
	case c.Rows > 1:
		c.Starts = append(c.Starts, was)
		c.relink(was.Value)
	}
	c.Ends = append(c.Ends, Balance{e.After, e.At})
	c.relink(e.After)
	if len(c.Starts) > maxUnlinked || len(c.Ends) > maxUnlinked {
		c.markUnproved()
	}
}

func (c *Series) markUnproved() { c.Unproved, c.Starts, c.Ends, c.Links = true, nil, nil, nil }

// numberLess orders rows of one second by their numbers. It only decides where nothing else does.
func numberLess(a, b string) bool {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) < 0
}

// relink links all rows at one balance anew: each start to the latest free end before it, as brackets close. The
// result does not depend on the order in which the rows came.
func (c *Series) relink(value int64) {
	type side struct {
		at    int64
		start bool
	}
	var sides []side
	at := func(ends []Balance, start bool) []Balance {
		return slices.DeleteFunc(ends, func(e Balance) bool {
			if e.Value == value {
				sides = append(sides, side{e.At, start})
			}
			return e.Value == value
		})
	}
	c.Starts, c.Ends = at(c.Starts, true), at(c.Ends, false)
	c.Links = slices.DeleteFunc(c.Links, func(l link) bool {
		if l.Value == value {
			sides = append(sides, side{l.From, false}, side{l.To, true})
		}
		return l.Value == value
	})
	slices.SortFunc(sides, func(a, b side) int {
		if a.at == b.at && a.start != b.start { // ends first
			if a.start {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.at, b.at)
	})
	var open []int64
	for _, s := range sides {
		switch {
		case !s.start:
			open = append(open, s.at)
		case len(open) == 0:
			c.Starts = append(c.Starts, Balance{value, s.at})
		default:
			from := open[len(open)-1]
			open = open[:len(open)-1]
			if from < s.at { // no row fits between two of one second
				c.Links = append(c.Links, link{value, from, s.at})
			}
		}
	}
	for _, from := range open {
		c.Ends = append(c.Ends, Balance{value, from})
	}
	if n := len(c.Links) - maxLinks; n > 0 {
		c.Links = slices.Delete(c.Links, 0, n)
	}
}

// unlinked returns the starts (with the opening balance) and the ends that link up with nothing, the earliest first.
// It allows for clocks that are slightly off.
func (c *Series) unlinked() (starts, ends []Balance) {
	type opened struct {
		Balance
		opening bool
	}
	list := []opened{{c.Opening, true}}
	for _, s := range c.Starts {
		list = append(list, opened{s, false})
	}
	ends = slices.Clone(c.Ends)
	for len(list) > 1 && len(ends) > 1 {
		best, at, to := int64(math.MaxInt64), -1, -1
		for i, s := range list {
			for j, e := range ends {
				late := e.At - s.At
				if e.Value != s.Value || late > tolerance || late < 0 {
					continue
				}
				if s.opening {
					// One of the other early rows may have been the first in truth.
					if !slices.ContainsFunc(c.Starts, func(o Balance) bool { return o.At-s.At <= tolerance && slices.Contains(list, opened{o, false}) }) {
						continue
					}
					late += tolerance + 1 // only when no other matches
				}
				if late < best {
					best, at, to = late, i, j
				}
			}
		}
		if at < 0 {
			break
		}
		list, ends = slices.Delete(list, at, at+1), slices.Delete(ends, to, to+1)
	}
	for _, s := range list {
		starts = append(starts, s.Balance)
	}
	byTime := func(a, b Balance) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Value, b.Value)) }
	slices.SortFunc(starts, byTime)
	slices.SortFunc(ends, byTime)
	return starts, ends
}

// Gaps returns the places where rows are missing, the earliest first. What is missing before the earliest row or
// after the latest does not show, and neither do rows that cancel each other out with none between them.
func (c *Series) Gaps() []Gap {
	if c.Unproved || c.Rows == 0 {
		return nil
	}
	starts, ends := c.unlinked()
	var gaps []Gap
	for i := range min(len(starts), len(ends)) - 1 {
		gaps = append(gaps, Gap{Left: ends[i], Right: starts[i+1]})
	}
	return gaps
}

// Figure returns the shop's stock of the goods, and how far it is proved.
func (c *Series) Figure() (int64, Proof) {
	if c.Unproved || c.Rows == 0 {
		return c.Opening.Value + c.Sum, Unproved
	}
	starts, ends := c.unlinked()
	if len(starts) == 1 && len(ends) == 1 {
		return ends[0].Value, Proved
	}
	return starts[0].Value + c.Sum, Broken
}

// LinkWithin links equal balances within the interval, whatever their order. Use it when all rows of the interval
// were read and are Consistent.
func (c *Series) LinkWithin(s Interval) {
	for i := 0; i < len(c.Starts); {
		start := c.Starts[i]
		j := -1
		if s.contains(start.At) {
			j = slices.IndexFunc(c.Ends, func(e Balance) bool { return e.Value == start.Value && s.contains(e.At) })
		}
		if j < 0 {
			i++
			continue
		}
		c.Starts, c.Ends = slices.Delete(c.Starts, i, i+1), slices.Delete(c.Ends, j, j+1)
	}
}

// Consistent reports whether rows, all of one kind of goods in some interval, can be put in an order in which each
// begins with the balance at which the one before it ended.
func Consistent(rows []Movement) bool {
	balance, parent := map[int64]int{}, map[int64]int64{}
	var root func(int64) int64
	root = func(v int64) int64 {
		p, ok := parent[v]
		if !ok || p == v {
			parent[v] = v
			return v
		}
		parent[v] = root(p)
		return parent[v]
	}
	for _, e := range rows {
		if !e.Linked {
			return false
		}
		balance[e.Before]--
		balance[e.After]++
		parent[root(e.Before)] = root(e.After)
	}
	starts, components := 0, map[int64]bool{}
	for v, b := range balance {
		components[root(v)] = true
		switch {
		case b < -1 || b > 1:
			return false
		case b == -1:
			starts++
		}
	}
	return starts <= 1 && len(components) <= 1
}
