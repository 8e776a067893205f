package faultproxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"stockbridge/pkg/faultproxy"
)

func TestAnAnswerIsCutAfterItsWorkWasDone(t *testing.T) {
	done, asking := 0, 0
	var p *faultproxy.Proxy
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		done++
		asking += p.Asking()
		_, _ = io.WriteString(w, "0123456789")
	}))
	defer srv.Close()
	var err error
	p, err = faultproxy.Start("127.0.0.1:0", srv.Listener.Addr().String(), faultproxy.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	post := func() (string, error) { // a client does not repeat it automatically, as it does a GET
		res, err := http.Post("http://"+p.Addr(), "text/plain", nil)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	if body, err := post(); err != nil || body != "0123456789" {
		t.Fatalf("%q, %v", body, err)
	}
	p.Cut(0)
	if body, err := post(); err == nil {
		t.Errorf("an answer that was lost: %q", body)
	}
	p.Cut(120) // within the headers or the body: an HTTP answer of this size has about 130 bytes
	if body, err := post(); err == nil {
		t.Errorf("an answer that was cut: %q", body)
	}
	if body, err := post(); err != nil || body != "0123456789" {
		t.Errorf("afterwards: %q, %v", body, err)
	}
	p.Cut(5)
	if n := p.Cancel(); n != 1 || p.Cuts() != 2 || done != 4 || asking != 4 || p.Asking() != 0 {
		t.Errorf("%d cuts were waiting, %d happened, %d requests were served, %d while they were asked for, %d are", n, p.Cuts(), done, asking, p.Asking())
	}
}
