package healthcheck_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"stockbridge/pkg/healthcheck"
)

func TestAlive(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ill", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	everywhere, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener = everywhere
	server.Start()
	defer server.Close()
	_, port, err := net.SplitHostPort(everywhere.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()

	for _, row := range []struct{ name, addr, path, want string }{
		{"it listens everywhere", ":" + port, "/healthz", ""},
		{"it listens everywhere, said as an address", "0.0.0.0:" + port, "/healthz", ""},
		{"it listens everywhere, said as an address of the other family", "[::]:" + port, "/healthz", ""},
		{"it listens on one address", "127.0.0.1:" + port, "/healthz", ""},
		{"it says that it is ill", ":" + port, "/ill", "503"},
		{"nobody listens", nobody.Addr().String(), "/healthz", "refused"},
		{"no address", "off", "/healthz", "missing port"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("HTTP_PROXY", "http://"+nobody.Addr().String())
			err := healthcheck.Alive(t.Context(), row.addr, row.path)
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
