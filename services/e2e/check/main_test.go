package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/e2e/checker"
	"stockbridge/services/e2e/history"
)

// record makes a history of one order with so many documents.
func record(t *testing.T, documents int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	now := time.Now()
	r, err := history.New(dir, history.Setting{Began: now, What: "one order", DeadlineSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	r.Audit(history.Audit{Seller: "demo", OutboundNo: "A1", Hash: "h", Sent: now, Acked: now})
	history.Add(r, history.Events, history.Event{Name: "order.accepted", OutboundNo: "A1", Number: "N0", Stored: now})
	history.Add(r, history.Events, history.Event{Final: true})
	for i := range documents {
		history.Add(r, history.Documents, jdsandbox.Document{IsvUUID: "A1", EclpSoNo: "N" + string(rune('0'+i))})
	}
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTheExitCodeDistinguishesBrokenFromUndecided(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		errs string
	}{
		{"all well", []string{record(t, 1)}, 0, ""},
		{"a promise broke", []string{record(t, 2)}, 1, "broken: P1"},
		{"as JSON too", []string{"-o", "json", record(t, 2)}, 1, "broken: P1"},
		{"no such folder", []string{filepath.Join(t.TempDir(), "none")}, 2, "incomplete"},
		{"what was wanted was not exercised", []string{"-require", "P1,P7", record(t, 1)}, 2, "nothing was checked of P7"},
		{"no folder named", nil, 2, "check [-o"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(c.args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.errs) {
				t.Errorf("ended %d, said %q", code, errs.String())
			}
			if len(c.args) == 3 && c.args[1] == "json" {
				var r checker.Report
				if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Promises[0].Breaks[0].About != "A1" {
					t.Errorf("%v: %s", err, out.String())
				}
			}
		})
	}
}
