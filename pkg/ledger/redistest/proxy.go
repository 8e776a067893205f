package redistest

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// Proxy stands between a client and a server and can lose an answer.
type Proxy struct {
	to string
	l  net.Listener

	mu    sync.Mutex
	cut   []byte
	cuts  int
	conns map[net.Conn]struct{}
}

// Proxy starts a proxy in front of the server. It ends with the test.
func (s *Server) Proxy() *Proxy {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	p := &Proxy{to: s.addr, l: l, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(client) })
		}
	})
	s.t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		running.Wait()
	})
	return p
}

// URL is the proxy's address as settings give it.
func (p *Proxy) URL() string { return "redis://" + p.l.Addr().String() + "/0" }

// CutAnswer loses the answer to the next command that contains part: the server has done it, and the connection ends.
func (p *Proxy) CutAnswer(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = []byte(part)
}

// Cuts fails the test unless n answers were lost so far.
func (p *Proxy) Cuts(t testing.TB, n int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cuts != n {
		t.Fatalf("%d answers were cut off, want %d: the test proves nothing", p.cuts, n)
	}
}

// serve relays one connection. A client waits for each answer before it asks again, so a read is a whole command.
func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	end := func() {
		_ = client.Close()
		_ = server.Close()
	}
	defer func() {
		end()
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.conns, server)
		p.mu.Unlock()
	}()

	lose := make(chan struct{}, 1)
	go func() {
		defer end()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			if p.cutting(buf[:n]) {
				lose <- struct{}{}
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-lose:
			return
		default:
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) cutting(command []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == nil || !bytes.Contains(command, p.cut) {
		return false
	}
	p.cut = nil
	p.cuts++
	return true
}
