package inkv

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// stored is an entry as this version writes it: later versions must read it.
const stored = storedBefore + `"Following":{"Due":"2026-03-01T09:00:00Z","Phase":"late","Waybills":["JDV1"],"State":{"Status":1,"Code":"10019"}}` + storedAfter

// storedWhole is the same entry before Following had a State: its kind's state was the whole of it.
const (
	storedWhole = storedBefore + `"Following":` + following + storedAfter
	following   = `{"Status":1,"Code":"10019","StatusAt":"2026-03-01T08:00:00Z",` +
		`"Children":{"N1-1":{"Status":1,"Code":"10019","Shipped":true}},"Shipped":true,"Waybills":["JDV1"],"Due":"2026-03-01T09:00:00Z"}`
)

const storedBefore = `{"Key":{"Seller":"acme","Kind":"order","No":"A1"},"State":"accepted","Hash":"h","OrderNo":"SO-1","Lines":["1"],"Number":"N1",` +
	`"Revision":2,"Shop":"S","Warehouse":"W","Reason":{"Code":"c","Field":"f","ZH":"中","EN":"e","RemoteCode":"1","RemoteText":"t"},"Tries":3,` +
	`"Attempts":[{"At":"2026-03-01T08:00:00.000001Z","Owner":"w1","Stream":"ORDERS","Seq":18446744073709551615,"What":"begun","Detail":"d"}],` +
	`"Looks":1,"FirstDoubt":"2026-03-01T08:00:00Z",`

const storedAfter = `,"BegunAt":"2026-03-01T08:00:00Z",` +
	`"Cleaned":[{"Field":"f","What":"w","ZH":"中","EN":"e"}],"ChangedAt":"2026-03-01T08:00:00Z","Version":4,` +
	`"Owner":"w1","Until":"0001-01-01T00:00:00Z","How":"accepted","Sure":"1 s","Token":"t"}`

func TestStoredEntriesStayReadable(t *testing.T) {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	want := record{
		Entry: ledger.Entry{
			Key: ledger.Key{Seller: "acme", Kind: "order", No: "A1"}, State: ledger.Accepted, Hash: "h", Group: "SO-1", Items: []string{"1"},
			Number: "N1", Revision: 2, Shop: "S", Warehouse: "W",
			Reason: fault.Reason{Code: "c", Field: "f", ZH: "中", EN: "e", RemoteCode: "1", RemoteText: "t"}, Tries: 3,
			Attempts: []ledger.Attempt{{At: at.Add(time.Microsecond), Owner: "w1", Stream: "ORDERS", Seq: 1<<64 - 1, What: "begun", Detail: "d"}},
			Lookups:  1, UnknownSince: at,
			Following: &ledger.Following{
				Due: at.Add(time.Hour), Phase: "late", Numbers: []string{"JDV1"}, State: []byte(`{"Status":1,"Code":"10019"}`),
			},
			FirstClaimedAt: at, ChangedAt: at, Version: 4, Cleaned: []ledger.Cleaned{{Field: "f", What: "w", ZH: "中", EN: "e"}},
		},
		Owner: "w1", EndedAs: "accepted", NeverSentIn: "1 s", Token: "t",
	}
	var got record
	if err := json.Unmarshal([]byte(stored), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if raw, err := json.Marshal(want); err != nil || string(raw) != stored {
		t.Errorf("written now, %v:\n%s\nbefore:\n%s", err, raw, stored)
	}

	if err := json.Unmarshal([]byte(storedWhole), &got); err != nil {
		t.Fatal(err)
	}
	want.Following = &ledger.Following{Due: at.Add(time.Hour), Numbers: []string{"JDV1"}, State: []byte(following)}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("an earlier build's, read back (-want +got):\n%s", diff)
	}
}

// Stores have kept another program's document under a hash of its own since version 0.1.
func TestAStoredExternalEntryStaysReadable(t *testing.T) {
	for _, text := range []string{`{"State":"unknown","Hash":"shadow"}`, `{"State":"accepted","Hash":"shadow","Number":"N1"}`} {
		var r record
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if e := r.entry(); e.Origin != ledger.External || e.Hash != "" || e.Reconstructed() {
			t.Errorf("%s is read as %+v", text, e)
		}
		if raw, err := json.Marshal(r); err != nil || !strings.Contains(string(raw), `"Hash":"shadow"`) {
			t.Errorf("written as %s, %v", raw, err)
		}
	}
}

// Whatever the numbers consist of, a bucket accepts the key, and no two numbers share one.
func TestKeysAreValidAndStayApart(t *testing.T) {
	valid := regexp.MustCompile(`^[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*$`)
	seen := map[string][2]string{}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.StringMatching(`[a-z=.%*> 单]{0,3}`).Draw(t, "b")
		key := keyOf("entry", a, b)
		if !valid.MatchString(key) {
			t.Fatalf("%q", key)
		}
		if other, ok := seen[key]; ok && other != [2]string{a, b} {
			t.Fatalf("%q is the key of %q and %q", key, other, [2]string{a, b})
		}
		seen[key] = [2]string{a, b}
	})
}
