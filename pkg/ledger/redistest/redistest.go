// Package redistest gives a test a real Redis of its own, and provokes failures: a restart, a loss of all data, a
// restored older copy, a hang, a lost answer.
//
// It talks to the server in bare inline commands and knows nothing of what is stored there.
package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// startFor is how long a server may take to answer. Two slow cores with many tests on them are the measure.
	startFor = 20 * time.Second
	// stopFor is how long it may take to write its files and go.
	stopFor = 10 * time.Second
)

// Server is a redis-server process on a loopback port, with its append-only file on.
type Server struct {
	t        testing.TB
	dir      string
	addr     string
	settings []string
	process  *exec.Cmd
	// gone is closed when the process has ended.
	gone chan struct{}
}

// Start starts a server that ends with the test. settings are further lines of redis.conf, which win over the
// defaults here. A machine without redis-server fails the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), settings: settings}
	t.Cleanup(s.stop)
	s.start()
	return s
}

// Addr is the server's host and port: the same after every Restart.
func (s *Server) Addr() string { return s.addr }

// URL is the server's address as settings give it.
func (s *Server) URL() string { return "redis://" + s.addr + "/0" }

// Dir holds all that the server writes.
func (s *Server) Dir() string { return s.dir }

// Restart stops the server in order and starts it on the same files: the same data, another run.
func (s *Server) Restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// Wipe removes all data. The server keeps running.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Command("FLUSHALL")
}

// Copy is the data of a server as it once was.
type Copy struct{ dir string }

// Copy copies the data files as they are now.
func (s *Server) Copy() Copy {
	s.t.Helper()
	c := Copy{s.t.TempDir()}
	if err := os.CopyFS(filepath.Join(c.dir, "data"), os.DirFS(s.data())); err != nil {
		s.t.Fatalf("copy the files of Redis: %v", err)
	}
	return c
}

// Restore stops the server, restores the older copy and starts it again.
func (s *Server) Restore(c Copy) {
	s.t.Helper()
	s.stop()
	if err := os.RemoveAll(s.data()); err != nil {
		s.t.Fatalf("remove the files of Redis: %v", err)
	}
	if err := os.CopyFS(s.data(), os.DirFS(filepath.Join(c.dir, "data"))); err != nil {
		s.t.Fatalf("restore an older copy of Redis' files: %v", err)
	}
	s.start()
}

// Hang stops the process without ending it: connections stay open, nothing answers. The function returned wakes it.
func (s *Server) Hang() (wake func()) {
	s.t.Helper()
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatalf("stop Redis: %v", err)
	}
	return func() { _ = s.process.Process.Signal(syscall.SIGCONT) }
}

// Command sends words as they are and returns the first line of the answer, without its line end.
func (s *Server) Command(words ...string) string {
	s.t.Helper()
	answer, err := s.ask(strings.Join(words, " "))
	if err != nil {
		s.t.Fatalf("redis %s: %v", words[0], err)
	}
	return answer
}

func (s *Server) ask(line string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // the answer is read
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(answer, "\r\n"), err
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// start tries another port when the chosen one was taken meanwhile, which can only happen the first time.
func (s *Server) start() {
	s.t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatalf("the tests need a real redis-server on the PATH (apt-get install redis-server): %v", err)
	}
	tries := 1
	if s.addr == "" {
		tries = 5
	}
	var said string
	for range tries {
		addr := s.addr
		if addr == "" {
			addr = freeAddr(s.t)
		}
		if said = s.run(program, addr); said == "" {
			s.addr = addr
			return
		}
	}
	s.t.Fatalf("redis-server does not start: %s", said)
}

// run returns the server's output when it does not start.
func (s *Server) run(program, addr string) (said string) {
	s.t.Helper()
	if err := os.MkdirAll(s.data(), 0o700); err != nil {
		s.t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		s.t.Fatal(err)
	}
	conf := append([]string{
		"bind " + host, "port " + port, `dir "` + s.data() + `"`,
		"appendonly yes", "appendfsync everysec", `save ""`, "maxmemory-policy noeviction",
	}, s.settings...)
	var out bytes.Buffer
	s.process = exec.Command(program, "-")
	s.process.Stdin = strings.NewReader(strings.Join(conf, "\n") + "\n")
	s.process.Stdout, s.process.Stderr = &out, &out
	if err := s.process.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	process, gone := s.process, make(chan struct{})
	s.gone = gone
	go func() {
		_ = process.Wait()
		close(gone)
	}()

	asked := s.addr
	s.addr = addr
	defer func() {
		if said != "" {
			s.addr = asked
		}
	}()
	for end := time.Now().Add(startFor); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case <-gone:
			return out.String()
		default:
		}
		if answer, err := s.ask("PING"); err == nil && answer == "+PONG" {
			return ""
		}
	}
	s.stop()
	return "no answer in " + startFor.String() + ": " + out.String()
}

func (s *Server) stop() {
	if s.gone == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGCONT)
	_ = s.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(stopFor):
		_ = s.process.Process.Kill()
		<-s.gone
	}
	s.gone = nil
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only its number is wanted
	return l.Addr().String()
}
