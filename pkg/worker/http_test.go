package worker_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/worker"
)

// A start that takes no time must not look like one that takes a second because a probe came too early.
func TestReadinessIsReportedSoonAndCheckedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, state := 0, errors.New("starting")
		p := &worker.Probes{Ready: func(context.Context) error { asked++; return state }}
		probe := func(wantCode, wantAsked int) {
			t.Helper()
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			if w.Code != wantCode || asked != wantAsked {
				t.Errorf("answered %d after asking %d times, want %d after %d", w.Code, asked, wantCode, wantAsked)
			}
		}
		probe(http.StatusServiceUnavailable, 1)
		state = nil
		probe(http.StatusServiceUnavailable, 1)
		time.Sleep(110 * time.Millisecond)
		probe(http.StatusOK, 2)
		time.Sleep(900 * time.Millisecond)
		probe(http.StatusOK, 2)
		time.Sleep(110 * time.Millisecond)
		probe(http.StatusOK, 3)
	})
}
