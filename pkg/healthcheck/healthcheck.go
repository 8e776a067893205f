// Package healthcheck asks a program of ours whether it is alive, for health checks inside an image that holds nothing
// else: no shell, no curl. It knows no program; the caller gives the address.
package healthcheck

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// limit bounds one request; it stays below the 5 s of the Dockerfile's HEALTHCHECK.
const limit = 3 * time.Second

// Alive is nil when the server on addr (host:port, or :port as given to a server) answers GET path with 200. It uses no
// proxy, and reaches a server that listens everywhere on loopback.
func Alive(ctx context.Context, addr, path string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // by number: an image that holds nothing else may not know the name localhost
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", r.URL, answer.Status)
	}
	return nil
}
