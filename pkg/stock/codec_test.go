package stock

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestASeriesIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &Series{Code: rapid.String().Draw(t, "code")}
		n := rapid.IntRange(0, 60).Draw(t, "rows")
		for i := range n {
			former := rapid.Int64Range(-5, 1<<40).Draw(t, "former")
			now := rapid.Int64Range(-5, 1<<40).Draw(t, "now")
			c.Add(Movement{
				No: rapid.StringN(0, 20, -1).Draw(t, "no"), At: rapid.Int64Range(-1<<33, 1<<33).Draw(t, "at"),
				Before: former, After: now, Change: now - former, Linked: i > 40 || rapid.IntRange(0, 50).Draw(t, "linked") > 0,
			})
		}
		read, err := decode(c.encode())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []*Series{c, read} { // an empty list is no list
			for _, l := range []*[]Balance{&x.Starts, &x.Ends} {
				if len(*l) == 0 {
					*l = nil
				}
			}
			if len(x.Links) == 0 {
				x.Links = nil
			}
		}
		if !reflect.DeepEqual(c, read) {
			t.Fatalf("written %+v, read %+v", c, read)
		}
	})
}

// A series that cannot be read is an error, never another series.
func FuzzDecodeSeries(f *testing.F) {
	c := &Series{Code: "TEA-1"}
	for i := range int64(5) {
		c.Add(Movement{No: "n", At: 100 + i, Before: 10 - i, After: 9 - i, Change: -1, Linked: i != 3})
	}
	f.Add(c.encode())
	f.Add([]byte{})
	f.Add([]byte{seriesVersion, 0, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(data)
		if err != nil || len(data) == 0 {
			return
		}
		again, err := decode(c.encode())
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Errorf("%v: read %+v, then %+v", err, c, again)
		}
	})
}
