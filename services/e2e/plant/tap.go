package plant

import (
	"net"
	"regexp"
	"sync"
)

// tap stands between a worker and a server, waits for one request, and then does the worst at that very moment.
type tap struct {
	to       string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	armed  *regexp.Regexp
	hold   bool
	// met is closed when the request came.
	met chan struct{}
}

func newTap(to string) (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tap{to: to, listener: l, conns: map[net.Conn]struct{}{}}
	t.running.Go(t.accept)
	return t, nil
}

func (t *tap) addr() string { return t.listener.Addr().String() }

func (t *tap) close() {
	_ = t.listener.Close() // accept ends with it
	t.mu.Lock()
	t.closed = true
	for c := range t.conns {
		_ = c.Close() // its relays end with it
	}
	t.mu.Unlock()
	t.running.Wait()
}

// cutAnswer loses the answer to the next request that matches: the server gets the request, and the connection ends.
func (t *tap) cutAnswer(request *regexp.Regexp) (met <-chan struct{}) { return t.arm(request, false) }

// holdBehind lets the next request that matches through and nothing after it on its connection.
func (t *tap) holdBehind(request *regexp.Regexp) (met <-chan struct{}) { return t.arm(request, true) }

func (t *tap) arm(request *regexp.Regexp, hold bool) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed, t.hold, t.met = request, hold, make(chan struct{})
	return t.met
}

// meet reports whether the request is in what a connection sent last, and where it ends; it matches once. A match that
// ends before from was sent earlier, maybe before the tap was armed.
func (t *tap) meet(sent []byte, from int) (end int, hold, met bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.armed == nil {
		return 0, false, false
	}
	for _, at := range t.armed.FindAllIndex(sent, -1) {
		if at[1] > from {
			t.armed = nil
			close(t.met)
			return at[1], t.hold, true
		}
	}
	return 0, false, false
}

func (t *tap) accept() {
	for {
		client, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.running.Go(func() { t.relay(client) })
	}
}

// recent is how much of what was sent before is searched again, for a request that came in two parts.
const recent = 4 << 10

func (t *tap) relay(client net.Conn) {
	server, err := net.Dial("tcp", t.to)
	if err != nil {
		_ = client.Close()
		return
	}
	t.mu.Lock()
	t.conns[client], t.conns[server] = struct{}{}, struct{}{}
	closed := t.closed
	t.mu.Unlock()
	end := func() {
		_ = client.Close()
		_ = server.Close()
	}
	if closed {
		end()
	}
	defer func() {
		end()
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.conns, client)
		delete(t.conns, server)
	}()
	cut := make(chan struct{})
	t.running.Go(func() {
		defer end()
		var before []byte
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			sent := append(before, buf[:n]...)
			upTo, hold, met := t.meet(sent, len(before))
			part := buf[:n]
			if met && hold {
				part = buf[:upTo-len(before)]
			}
			if met && !hold {
				close(cut) // before the server can answer
			}
			if _, err := server.Write(part); err != nil {
				return
			}
			if met && hold {
				for err == nil { // what follows is read, so that the client does not notice, and discarded
					_, err = client.Read(buf)
				}
				return
			}
			before = append([]byte(nil), sent[max(0, len(sent)-recent):]...)
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-cut:
			return
		default:
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
