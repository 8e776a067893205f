// Package server runs a NATS server with JetStream inside the process: for `bridgectl up` and for tests.
//
// It does not know what is published there; pkg/bus lays out the streams.
package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

// RandomPort asks for any free port.
const RandomPort = natsserver.RANDOM_PORT

// maxPayload is the largest message, headers and all, bytes: NATS' own default. The limits of pkg/bus stay below it.
const maxPayload = 1 << 20

// startLimit is how long a server may take to load its stored data.
const startLimit = time.Minute

// Options of a server. The zero value of each is usable except Dir.
type Options struct {
	// Dir is where JetStream keeps its files. One process at a time.
	Dir string
	// Host to listen on; 127.0.0.1 when empty.
	Host string
	// Port to listen on; 4222 when 0, any when RandomPort.
	Port int
	// Name shown to clients; "stockbridge" when empty.
	Name string
	// SyncAlways makes JetStream sync every write before it answers. Without it a power cut loses up to two minutes.
	SyncAlways bool
	// Peers are the addresses ("host:port") where the nodes of a cluster meet, Peer the one of this node; none for a
	// single server. Nodes need different names and folders.
	Peer  string
	Peers []string
	// Config is further settings in the server's own language; the fields here win.
	Config string
	Log    zerolog.Logger
}

// Server is running until Stop.
type Server struct{ ns *natsserver.Server }

// Start starts a server and waits until it accepts connections.
func Start(o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("start NATS server: no directory given")
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Name == "" {
		o.Name = "stockbridge"
	}
	options, err := o.settings()
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	ns, err := natsserver.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	heard := &lastFatal{}
	ns.SetLoggerV2(logger{o.Log.With().Str("part", "nats-server").Logger(), heard}, false, false, false)
	go ns.Start()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline) && heard.text() == ""; {
		if ns.ReadyForConnections(100 * time.Millisecond) {
			return &Server{ns}, nil
		}
	}
	ns.Shutdown()
	ns.WaitForShutdown()
	why := heard.text()
	if why == "" {
		why = "not ready in time"
	}
	return nil, fmt.Errorf("start NATS server on %s:%d in %s: %s", o.Host, o.Port, o.Dir, why)
}

// settings are the server's own options.
func (o Options) settings() (*natsserver.Options, error) {
	s := &natsserver.Options{}
	if o.Config != "" {
		if err := s.ProcessConfigString(o.Config); err != nil {
			return nil, err
		}
	}
	s.ServerName, s.Host, s.Port, s.NoSigs = o.Name, o.Host, o.Port, true
	s.JetStream, s.StoreDir, s.SyncAlways, s.MaxPayload = true, o.Dir, o.SyncAlways, maxPayload
	if len(o.Peers) == 0 {
		return s, nil
	}
	host, text, err := net.SplitHostPort(o.Peer)
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("peer %s: %w", o.Peer, err)
	}
	s.Cluster = natsserver.ClusterOpts{Name: "stockbridge", Host: host, Port: port, NoAdvertise: true}
	s.Routes = natsserver.RoutesFromStr("nats://" + strings.Join(o.Peers, ",nats://"))
	return s, nil
}

// URL is where clients connect.
func (s *Server) URL() string { return s.ns.ClientURL() }

// Leads reports whether this node leads its cluster's meta group (not: a stream).
func (s *Server) Leads() bool { return s.ns.JetStreamIsLeader() }

// Current reports whether this node has caught up with its cluster's meta group.
func (s *Server) Current() bool { return s.ns.JetStreamIsCurrent() }

// ErrDisk says that a stream could not be written. It stays closed until the server is restarted, even when there is
// space again.
var ErrDisk = errors.New("the disk cannot be written")

// writeError is the server's text for it.
const writeError = "write error"

// Health is nil, or wraps ErrDisk with the file and the cause in the server's text. It ignores what else the server
// finds wrong with itself.
func (s *Server) Health() error {
	var said answer
	s.ns.HandleHealthz(&said, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/healthz"}})
	if strings.Contains(said.text.String(), writeError) {
		var body struct {
			Error string `json:"error"`
		}
		if json.Unmarshal([]byte(said.text.String()), &body) != nil {
			body.Error = said.text.String()
		}
		return fmt.Errorf("%w: %s", ErrDisk, body.Error)
	}
	return nil
}

// answer records the server's HTTP response.
type answer struct {
	header http.Header
	text   strings.Builder
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

func (a *answer) Write(p []byte) (int, error) { return a.text.Write(p) }

func (a *answer) WriteHeader(int) {}

// Stop ends the server and waits for it.
func (s *Server) Stop() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
