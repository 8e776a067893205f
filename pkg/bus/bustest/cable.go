package bustest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Passing is one message on a Cable.
type Passing struct {
	Subject, Reply string
	// Body without headers.
	Body []byte
	// Delivered: a stream's message on its way to the client, to be acked. All others are the client's.
	Delivered bool
	// Answered: the server has accepted this message of the client, and its answer, if there is one, is on its way
	// back.
	Answered bool
}

// Cable is a proxy between a client and its server. Each message on it can be inspected, withheld, or be the last one:
// after Cut the server sees nothing, as from a process that was killed, whatever the client has in its buffers or does
// later.
type Cable struct {
	to  string
	url string
	l   net.Listener
	tap func(Passing) (pass bool)

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
	open  map[string]Passing // by the subject of the answer
	work  sync.WaitGroup
	// carrying is for the connections, work for everything.
	carrying sync.WaitGroup
}

// NewCable starts a proxy to the server at url (of several the first), for the same user. tap is called for each
// message before it passes, and again for each that the server has accepted; it may call Cut. Close it in the end.
func NewCable(t testing.TB, url string, tap func(Passing) (pass bool)) *Cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(url, ",")
	to, err := neturl.Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cable{to: to.Host, l: l, tap: tap, open: map[string]Passing{}}
	to.Host = l.Addr().String()
	c.url = to.String()
	c.work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.work.Go(func() { c.serve(client) })
		}
	})
	return c
}

// URL is where the client connects.
func (c *Cable) URL() string { return c.url }

// Cut ends the proxy for good. What passed before has passed. New connections are rejected, so that the client gives
// up.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	c.hangUp()
}

// Await waits after Cut until everything on the proxy has been inspected: what the server had sent already is reported
// as Delivered, though nobody receives it.
func (c *Cable) Await() { c.carrying.Wait() }

// Close cuts the proxy and waits until all its goroutines have ended.
func (c *Cable) Close() {
	_ = c.l.Close()
	c.Cut()
	c.work.Wait()
}

// hangUp lets the server read what has passed to the end: a plain Close may discard it.
func (c *Cable) hangUp() {
	for _, conn := range c.conns {
		if server, ok := conn.(*net.TCPConn); ok {
			_ = server.CloseWrite()
		}
	}
	c.conns = nil
}

func (c *Cable) serve(client net.Conn) {
	defer client.Close() //nolint:errcheck // nothing is lost that counts
	c.mu.Lock()
	if c.cut {
		c.mu.Unlock()
		_, _ = io.WriteString(client, "INFO {\"server_id\":\"CUT\",\"headers\":true,\"proto\":1,\"max_payload\":1048576}\r\n")
		_, _ = client.Read(make([]byte, 1<<12)) // its greeting, or its end
		_, _ = io.WriteString(client, "-ERR 'Authorization Violation'\r\n")
		return
	}
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		c.mu.Unlock()
		return
	}
	defer server.Close() //nolint:errcheck // nothing is lost that counts
	c.conns = append(c.conns, server, client)
	c.carrying.Add(1)
	c.mu.Unlock()
	defer c.carrying.Done()
	var both sync.WaitGroup
	both.Go(func() {
		defer server.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // TCP
		c.carry(client, server, c.fromClient)
	})
	both.Go(func() {
		defer client.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // TCP
		c.carry(server, client, c.fromServer)
	})
	both.Wait()
}

// carry reads one frame after the other, to the end, and forwards it as see decides, until the proxy is cut.
func (c *Cable) carry(from, to net.Conn, see func(p Passing, write func() bool)) {
	in := bufio.NewReaderSize(from, 1<<16)
	for {
		raw, p, err := frame(in)
		if err != nil {
			return
		}
		see(p, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.cut {
				return false
			}
			_, err := to.Write(raw)
			return err == nil
		})
	}
}

func (c *Cable) fromClient(p Passing, write func() bool) {
	if p.Subject == "" {
		write()
		return
	}
	if !c.tap(p) {
		return
	}
	if p.Reply != "" {
		c.mu.Lock()
		c.open[p.Reply] = p
		c.mu.Unlock()
	}
	if write() && p.Reply == "" {
		p.Answered = true
		c.tap(p)
	}
}

func (c *Cable) fromServer(p Passing, write func() bool) {
	if p.Subject != "" {
		c.mu.Lock()
		asked, ok := c.open[p.Subject]
		delete(c.open, p.Subject)
		c.mu.Unlock()
		switch {
		case strings.HasPrefix(p.Reply, "$JS.ACK."):
			p.Delivered = true
			c.tap(p)
		case ok:
			asked.Answered = true
			c.tap(asked)
		}
	}
	write()
}

// frame reads one frame of NATS' client protocol; only those that carry a message have a subject.
func frame(in *bufio.Reader) (raw []byte, p Passing, err error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, p, err
	}
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return line, p, nil
	}
	headers, args := false, words[1:]
	switch strings.ToUpper(words[0]) {
	case "PUB":
	case "HPUB":
		headers = true
	case "MSG", "HMSG":
		headers = strings.EqualFold(words[0], "HMSG")
		args = append(args[:1:1], args[2:]...) // without the subscription's number
	default:
		return line, p, nil
	}
	sizes := 1
	if headers {
		sizes = 2
	}
	p.Subject = args[0]
	if len(args) == sizes+2 {
		p.Reply = args[1]
	}
	total, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return nil, p, fmt.Errorf("frame %q: %w", line, err)
	}
	head := 0
	if headers {
		if head, err = strconv.Atoi(args[len(args)-2]); err != nil {
			return nil, p, fmt.Errorf("frame %q: %w", line, err)
		}
	}
	payload := make([]byte, total+len("\r\n"))
	if _, err := io.ReadFull(in, payload); err != nil {
		return nil, p, err
	}
	p.Body = bytes.Clone(payload[head:total])
	return append(line, payload...), p, nil
}
