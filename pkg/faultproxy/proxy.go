// Package faultproxy stands between a client and a server on loopback and breaks their connection at a chosen moment: the
// server has done its work, and the client cannot know. It is for tests and for the programs that break things; it links
// no test code.
//
// A Proxy reads requests by a framer (Bytes, RESP, NATS) and passes answers on as they come. A Cable reads NATS both
// ways, shows each message and can end for good. Neither knows what the messages mean.
package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Proxy relays connections until Close. Its methods may be called by many goroutines.
type Proxy struct {
	relay
	frames Frames

	// The fields below are guarded by relay.mu.

	// asking are the clients that wait for an answer.
	asking map[net.Conn]struct{}
	// waiting are the cuts, in bytes, that have met no answer yet.
	waiting []int
	cuts    int
	armed   *trap
}

// trap waits for a request.
type trap struct {
	match func(request []byte) bool
	// hold: nothing after the request gets through. Else its answer is lost.
	hold bool
	met  chan struct{}
}

// Start relays connections to addr ("127.0.0.1:0" for any port) to the address to, which need not listen yet. Requests are
// read by frames.
func Start(addr, to string, frames Frames) (*Proxy, error) {
	p := &Proxy{frames: frames, asking: map[net.Conn]struct{}{}}
	return p, p.start(addr, to, p.serve)
}

// Cut cuts the next answer, on any connection: its first after bytes are relayed, then the connection ends. Several
// cuts hit several answers; those on connections that end meanwhile are lost.
func (p *Proxy) Cut(after int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, after)
}

// Cancel cancels the cuts that have met no answer, and returns how many there were.
func (p *Proxy) Cancel() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.waiting)
	p.waiting = nil
	return n
}

// Cuts is how many answers were cut or lost.
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

// LoseAnswer loses the answer to the next request that matches: the server gets the request, and the connection ends. met
// is closed when the request came. A later call takes the place of one that has met nothing yet.
func (p *Proxy) LoseAnswer(match func(request []byte) bool) (met <-chan struct{}) {
	return p.arm(&trap{match: match})
}

// HoldAfter lets the next request that matches through and nothing after it on its connection, which stays open.
func (p *Proxy) HoldAfter(match func(request []byte) bool) (met <-chan struct{}) {
	return p.arm(&trap{match: match, hold: true})
}

func (p *Proxy) arm(t *trap) <-chan struct{} {
	t.met = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = t
	return t.met
}

// asked records a request of the client, and returns the trap that it met.
func (p *Proxy) asked(client net.Conn, request []byte) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking[client] = struct{}{}
	t := p.armed
	if t == nil || !t.match(request) {
		return nil
	}
	p.armed = nil
	if !t.hold {
		p.cuts++
	}
	close(t.met)
	return t
}

// answered records an answer, or the end of the client.
func (p *Proxy) answered(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asking, client)
}

func (p *Proxy) serve(client, server net.Conn) {
	end := func() {
		_ = client.Close()
		_ = server.Close()
	}
	lost, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asked)
		defer end() // when a client is killed the server sees that too
		p.requests(client, server, lost)
	}()
	p.answers(client, server, lost)
	end()
	<-asked
	p.answered(client)
}

func (p *Proxy) requests(client, server net.Conn, lost chan<- struct{}) {
	in := bufio.NewReaderSize(client, bufferSize)
	for {
		request, err := p.frames(in)
		if err != nil {
			return
		}
		t := p.asked(client, request)
		if t != nil && !t.hold {
			close(lost) // before the server can answer
			lost = make(chan struct{})
		}
		if _, err := server.Write(request); err != nil {
			return
		}
		for t != nil && t.hold { // what follows is read, so that the client does not notice, and discarded
			if _, err := p.frames(in); err != nil {
				return
			}
		}
	}
}

func (p *Proxy) answers(client, server net.Conn, lost <-chan struct{}) {
	buf := make([]byte, bufferSize)
	left := -1 // bytes until this connection's cut; negative when there is none
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-lost:
			return
		default:
		}
		p.answered(client)
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

// relay accepts connections and dials the server for each.
type relay struct {
	to       string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// start serves each connection by serve, which returns when both sides have ended.
func (r *relay) start(addr, to string, serve func(client, server net.Conn)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("start a proxy to %s: %w", to, err)
	}
	r.to, r.listener, r.conns = to, l, map[net.Conn]struct{}{}
	r.running.Go(func() {
		for {
			client, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // one connection failed; the next may not
			}
			r.running.Go(func() {
				if server, ok := r.connect(client); ok {
					defer r.forget(client, server)
					serve(client, server)
				}
			})
		}
	})
	return nil
}

// Addr is where clients connect.
func (r *relay) Addr() string { return r.listener.Addr().String() }

// Close ends all connections.
func (r *relay) Close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		_ = c.Close() // its relays end with it
	}
	r.mu.Unlock()
	_ = r.listener.Close() // accepting ends with it
	r.running.Wait()
}

func (r *relay) connect(client net.Conn) (server net.Conn, ok bool) {
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		reset(client)
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		reset(client)
		reset(server)
		return nil, false
	}
	r.conns[client], r.conns[server] = struct{}{}, struct{}{}
	return server, true
}

func (r *relay) forget(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(r.conns, c)
	}
}

// reset ends a connection at once and discards what is unsent.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the connection is closed in any case
	}
	_ = c.Close()
}
