package worker_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/worker"
)

func TestSpansGoWhereTheSettingsSay(t *testing.T) {
	type request struct{ path, token, body string }
	got := make(chan request, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- request{r.URL.Path, r.Header.Get("Authorization"), string(body)}
	}))
	defer collector.Close()
	_, _, err := worker.Settings[noConfig](nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	base, _, err := worker.Settings[noConfig]([]string{"--otel-exporter-otlp-endpoint", collector.URL + "/otlp"},
		[]string{"OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20planted, X-Scope = a"})
	if err != nil {
		t.Fatal(err)
	}
	traces, closeTraces, err := base.Tracing.Open(t.Context(), "packer", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	_, span := traces.Tracer("test").Start(t.Context(), "wrap a parcel")
	span.End()
	closeTraces()
	select {
	case r := <-got:
		if r.path != "/otlp/v1/traces" || r.token != "Bearer planted" || !strings.Contains(r.body, "wrap a parcel") || !strings.Contains(r.body, "packer") {
			t.Errorf("got %+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no span came")
	}
}

func TestSettingsOfTraces(t *testing.T) {
	for name, test := range map[string]struct{ environ, want string }{
		"nowhere by default":   {"", ""},
		"no URL":               {"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT: want http://host:4318 or https://host:4318"},
		"no header":            {"OTEL_EXPORTER_OTLP_HEADERS=planted", "OTEL_EXPORTER_OTLP_HEADERS: want key=value"},
		"no sampler":           {"OTEL_TRACES_SAMPLER=sometimes", "OTEL_TRACES_SAMPLER: want always_on"},
		"a share":              {"OTEL_TRACES_SAMPLER_ARG=0.05", ""},
		"more than everything": {"OTEL_TRACES_SAMPLER_ARG=5", "OTEL_TRACES_SAMPLER_ARG: want a number from 0 to 1"},
	} {
		base, _, err := worker.Settings[noConfig](nil, []string{test.environ})
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "planted")) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if traces, closeTraces, err := base.Tracing.Open(t.Context(), "packer", zerolog.Nop()); traces != nil || err != nil {
				t.Errorf("%s: %v, %v", name, traces, err)
			} else {
				closeTraces()
			}
		}
	}
}
