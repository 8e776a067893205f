package faultproxy

import (
	"bufio"
	"io"
	"net"
	neturl "net/url"
	"strings"
	"sync"
)

// Message is one message on a Cable.
type Message struct {
	Subject, Reply string
	// Body without headers.
	Body []byte
	// Delivered: a stream's message on its way to the client, to be acked. All others are the client's.
	Delivered bool
	// Answered: the server has accepted this message of the client, and its answer, if there is one, is on its way
	// back.
	Answered bool
}

// Cable is a proxy between a NATS client and its server. Each message on it can be inspected, withheld, or be the last
// one: after Cut the server sees nothing, as from a process that was killed, whatever the client has in its buffers or does
// later.
type Cable struct {
	relay
	url string
	tap func(Message) (pass bool)

	// The fields below are guarded by relay.mu.

	cut  bool
	open map[string]Message // by the subject of the answer
	// carrying is for the connections that were served before the cut.
	carrying sync.WaitGroup
}

// NewCable starts a proxy to the server at url (of several the first), for the same user. tap is called for each message
// before it passes, and again for each that the server has accepted; it may call Cut. Close it in the end.
func NewCable(url string, tap func(Message) (pass bool)) (*Cable, error) {
	first, _, _ := strings.Cut(url, ",")
	to, err := neturl.Parse(first)
	if err != nil {
		return nil, err
	}
	c := &Cable{tap: tap, open: map[string]Message{}}
	if err := c.start("127.0.0.1:0", to.Host, c.serve); err != nil {
		return nil, err
	}
	to.Host = c.Addr()
	c.url = to.String()
	return c, nil
}

// URL is where the client connects.
func (c *Cable) URL() string { return c.url }

// Cut ends the proxy for good. What passed before has passed. New connections are rejected, so that the client gives
// up. The server reads what has passed to the end: a plain close may discard it.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		halfClose(conn)
	}
}

// Await waits after Cut until everything on the proxy has been inspected: what the server had sent already is reported
// as Delivered, though nobody receives it.
func (c *Cable) Await() { c.carrying.Wait() }

// Close cuts the proxy and waits until all its goroutines have ended.
func (c *Cable) Close() {
	_ = c.listener.Close()
	c.Cut()
	c.running.Wait()
}

func (c *Cable) serve(client, server net.Conn) {
	c.mu.Lock()
	if c.cut {
		c.mu.Unlock()
		_, _ = io.WriteString(client, "INFO {\"server_id\":\"CUT\",\"headers\":true,\"proto\":1,\"max_payload\":1048576}\r\n")
		_, _ = client.Read(make([]byte, 1<<12)) // its greeting, or its end
		_, _ = io.WriteString(client, "-ERR 'Authorization Violation'\r\n")
		return
	}
	c.carrying.Add(1)
	c.mu.Unlock()
	defer c.carrying.Done()
	var both sync.WaitGroup
	both.Go(func() {
		defer halfClose(server)
		c.carry(client, server, c.fromClient)
	})
	both.Go(func() {
		defer halfClose(client)
		c.carry(server, client, c.fromServer)
	})
	both.Wait()
}

// carry reads one frame after the other, to the end, and forwards it as see decides, until the proxy is cut.
func (c *Cable) carry(from, to net.Conn, see func(m Message, write func() bool)) {
	in := bufio.NewReaderSize(from, bufferSize)
	for {
		raw, m, err := message(in)
		if err != nil {
			return
		}
		see(m, func() bool {
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

func (c *Cable) fromClient(m Message, write func() bool) {
	if m.Subject == "" {
		write()
		return
	}
	if !c.tap(m) {
		return
	}
	if m.Reply != "" {
		c.mu.Lock()
		c.open[m.Reply] = m
		c.mu.Unlock()
	}
	if write() && m.Reply == "" {
		m.Answered = true
		c.tap(m)
	}
}

func (c *Cable) fromServer(m Message, write func() bool) {
	if m.Subject != "" {
		c.mu.Lock()
		asked, ok := c.open[m.Subject]
		delete(c.open, m.Subject)
		c.mu.Unlock()
		switch {
		case strings.HasPrefix(m.Reply, "$JS.ACK."):
			m.Delivered = true
			c.tap(m)
		case ok:
			asked.Answered = true
			c.tap(asked)
		}
	}
	write()
}

// halfClose ends what is written to a connection; what it sends can still be read.
func halfClose(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // it may have ended already
	}
}
