package stock

import (
	"encoding/binary"
	"errors"
)

// A series is stored as numbers of varying length behind a version, because it is read and written for every few
// rows: as JSON that was more than half of a catch-up's CPU time.
const seriesVersion = 1

var errSeries = errors.New("not a series as this build writes it")

// encode writes a series.
func (c *Series) encode() []byte {
	b := make([]byte, 0, 64+8*(len(c.Starts)+len(c.Ends)+len(c.Links)))
	b = append(b, seriesVersion, flag(c.Unproved))
	for _, s := range []string{c.Code, c.FirstNo} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	// Times are stored relative to the opening balance.
	since := c.Opening.At
	for _, n := range []int64{since, c.Opening.Value, c.Rows, c.Sum, c.Last - since, c.Checkpoint} {
		b = binary.AppendVarint(b, n)
	}
	for _, ends := range [][]Balance{c.Starts, c.Ends} {
		b = binary.AppendUvarint(b, uint64(len(ends)))
		for _, e := range ends {
			b = binary.AppendVarint(binary.AppendVarint(b, e.Value), e.At-since)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(c.Links)))
	for _, l := range c.Links {
		b = binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(b, l.Value), l.From-since), l.To-l.From)
	}
	return b
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// decode reads what encode wrote; no bytes are an empty series.
func decode(data []byte) (*Series, error) {
	c := &Series{}
	if len(data) == 0 {
		return c, nil
	}
	r := reader{data: data}
	if r.byte() != seriesVersion {
		return nil, errSeries
	}
	c.Unproved = r.byte() == 1
	c.Code, c.FirstNo = r.text(), r.text()
	since := r.number()
	c.Opening = Balance{Value: r.number(), At: since}
	c.Rows, c.Sum, c.Last, c.Checkpoint = r.number(), r.number(), since+r.number(), r.number()
	for _, ends := range []*[]Balance{&c.Starts, &c.Ends} {
		for range r.count(2) {
			*ends = append(*ends, Balance{Value: r.number(), At: since + r.number()})
		}
	}
	for range r.count(3) {
		l := link{Value: r.number(), From: since + r.number()}
		l.To = l.From + r.number()
		c.Links = append(c.Links, l)
	}
	if r.bad || len(r.data) > 0 {
		return nil, errSeries
	}
	return c, nil
}

// reader consumes data; bad says that something did not fit.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.bad = true
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) number() int64 {
	n, size := binary.Varint(r.data)
	if size <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[size:]
	return n
}

// count reads how many items follow, each of at least so many bytes.
func (r *reader) count(least int) int {
	n, size := binary.Uvarint(r.data)
	if size <= 0 || n > uint64(len(r.data)/least) { //nolint:gosec // a length
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[size:]
	return int(n) //nolint:gosec // checked
}

func (r *reader) text() string {
	n := r.count(1)
	if n > len(r.data) {
		r.bad, r.data = true, nil
		return ""
	}
	s := string(r.data[:n])
	r.data = r.data[n:]
	return s
}
