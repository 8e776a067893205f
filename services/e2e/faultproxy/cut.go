// Package faultproxy stands between a client and a server on loopback and cuts answers off after some bytes: the server
// has done its work, and the client cannot know. It relays bytes and knows no protocol.
package faultproxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// Proxy relays connections until Close. Its methods may be called by many goroutines.
type Proxy struct {
	to       string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	// asking are the clients that wait for an answer.
	asking map[net.Conn]struct{}
	// waiting are the cuts, in bytes, that have met no answer yet.
	waiting []int
	cuts    int
}

// Start relays connections to addr ("127.0.0.1:0" for any port) to the address to, which need not listen yet.
func Start(addr, to string) (*Proxy, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start a proxy to %s: %w", to, err)
	}
	p := &Proxy{to: to, listener: l, conns: map[net.Conn]struct{}{}, asking: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	return p, nil
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends all connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close() // its relays end with it
	}
	p.mu.Unlock()
	_ = p.listener.Close() // accept ends with it
	p.running.Wait()
}

// Cut cuts the next answer, on any connection: its first after bytes are relayed, then the connection ends. Several
// cuts hit several answers; those on connections that end meanwhile are lost.
func (p *Proxy) Cut(after int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, after)
}

// Cuts is how many answers were cut.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Asking is how many connections have sent a request and got no answer yet, where each request has one answer.
func (p *Proxy) Asking() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asking)
}

// asks records that the client waits, or no longer does.
func (p *Proxy) asks(client net.Conn, waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if waits {
		p.asking[client] = struct{}{}
	} else {
		delete(p.asking, client)
	}
}

// Cancel cancels the cuts that have met no answer, and returns how many there were.
func (p *Proxy) Cancel() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.waiting)
	p.waiting = nil
	return n
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // one connection failed; the next may not
		}
		p.running.Go(func() { p.relay(client) })
	}
}

func (p *Proxy) relay(client net.Conn) {
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		reset(client)
		return
	}
	if !p.keep(client, server) {
		return
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		p.requests(client, server)
	}()
	p.answers(client, server)
	_ = client.Close()
	_ = server.Close()
	<-asked
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
	delete(p.asking, client)
}

func (p *Proxy) keep(client, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		reset(client)
		reset(server)
		return false
	}
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	return true
}

// requests relays until either side ends, and then ends both: when a client is killed the server sees that too.
func (p *Proxy) requests(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			p.asks(client, true)
			if _, err := server.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = client.Close()
	_ = server.Close()
}

func (p *Proxy) answers(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	left := -1 // bytes until this connection's cut; negative when there is none
	for {
		n, err := server.Read(buf)
		if n > 0 {
			p.asks(client, false)
			if left < 0 {
				left = p.take()
			}
			if left >= 0 && left < n {
				_, _ = client.Write(buf[:left]) // it is cut off in any case
				p.mu.Lock()
				p.cuts++
				p.mu.Unlock()
				if left == 0 {
					reset(client) // as when a router forgets the connection; else the bytes would not arrive
				}
				return
			}
			if left >= 0 {
				left -= n
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// take returns the next cut, negative when there is none.
func (p *Proxy) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return -1
	}
	after := p.waiting[0]
	p.waiting = p.waiting[1:]
	return after
}

// reset ends a connection at once and discards what is unsent.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the connection is closed in any case
	}
	_ = c.Close()
}
