//go:build unix

package procs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports lie below those that Linux (32768) and macOS (49152) give to outgoing connections.
const firstPort, portsInAll, portTries = 20000, 12000, 200

// ports are those of one run. Each is locked by a file that the kernel unlocks when this process ends.
type ports struct {
	mu    sync.Mutex
	locks []*os.File
}

// Addr is a free address on loopback that stays reserved for the run: a server that was killed can have it again.
func (r *Run) Addr() (string, error) { return r.ports.take() }

func (p *ports) take() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("stockbridge-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("choose a port: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range portTries {
		port := strconv.Itoa(firstPort + rand.IntN(portsInAll))
		lock, err := os.OpenFile(filepath.Join(dir, port), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return "", fmt.Errorf("choose a port: %w", err)
		}
		addr := net.JoinHostPort("127.0.0.1", port)
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && unused(addr) {
			p.locks = append(p.locks, lock)
			return addr, nil
		}
		if err := lock.Close(); err != nil {
			return "", fmt.Errorf("choose a port: %w", err)
		}
	}
	return "", errors.New("choose a port: none is free")
}

func unused(addr string) bool {
	l, err := net.Listen("tcp", addr)
	return err == nil && l.Close() == nil
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.locks {
		_ = l.Close() // unlocked with this process at the latest
	}
	p.locks = nil
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // made by take
	return port
}
