package redistest

import (
	"bytes"
	"testing"

	"stockbridge/pkg/faultproxy"
)

// Proxy stands between a client and a server and can lose an answer.
type Proxy struct{ *faultproxy.Proxy }

// Proxy starts a proxy in front of the server. It ends with the test.
func (s *Server) Proxy() *Proxy {
	s.t.Helper()
	p, err := faultproxy.Start("127.0.0.1:0", s.addr, faultproxy.RESP)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Close)
	return &Proxy{p}
}

// URL is the proxy's address as settings give it.
func (p *Proxy) URL() string { return "redis://" + p.Addr() + "/0" }

// CutAnswer loses the answer to the next command that contains part: the server has done it, and the connection ends.
func (p *Proxy) CutAnswer(part string) {
	p.LoseAnswer(func(command []byte) bool { return bytes.Contains(command, []byte(part)) })
}

// WantCuts fails the test unless n answers were lost so far.
func (p *Proxy) WantCuts(t testing.TB, n int) {
	t.Helper()
	if cuts := p.Cuts(); cuts != n {
		t.Fatalf("%d answers were cut off, want %d: the test proves nothing", cuts, n)
	}
}
