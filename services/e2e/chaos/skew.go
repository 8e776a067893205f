//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/procs"
)

const (
	// clockOff is how far the clock of a skewed pusher's host is off.
	clockOff = 10 * time.Minute
	// refusedLag is how long the sandbox hides what it refused and took; it stays below settleFor and refuseAfter.
	refusedLag = 2 * time.Second
)

// skew lets one more pusher run for a while on a host whose clock is ten minutes off, ahead or behind. The pusher must
// report that instead of being ready, and leave every order to the others.
func (g *stage) skew(ctx context.Context, r *rand.Rand) error {
	off := clockOff
	if r.IntN(2) == 0 {
		off = -off
	}
	binary, err := g.skewed(ctx, off)
	if err != nil {
		return err
	}
	addr, err := g.Procs.Addr()
	if err != nil {
		return err
	}
	f := history.Fault{Kind: history.Skewed, Target: "a pusher", Began: time.Now(), Detail: off.String()}
	g.serving.RLock() // it starts only while the servers answer
	p, err := g.Procs.Start(ctx, procs.Spec{
		Name: fmt.Sprintf("skewed-%d", time.Since(g.began).Milliseconds()), Program: binary, HTTP: "http://" + addr,
		Env: append(append(g.Procs.Env(), "HTTP_ADDR="+addr, "LOG_LEVEL=info"), g.throughProxies()...),
		Ready: func(ctx context.Context) error {
			return says(ctx, "http://"+addr+"/readyz", "clock.skew: this host's clock is 10m0s ")
		},
	})
	g.serving.RUnlock()
	if err != nil {
		return err
	}
	wait(ctx, g.quick(draw(r, 8*time.Second, 15*time.Second)))
	if err := p.Term(); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil && ctx.Err() != nil {
		return err // the checker judges how it ended
	}
	g.done(f, "skew")
	return nil
}

// skewed builds a pusher whose host's clock is off.
func (g *stage) skewed(ctx context.Context, off time.Duration) (binary string, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "stockbridge/pkg/clock").Output()
	if err != nil {
		return "", fmt.Errorf("find the clock's source: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "clock.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const right = "wall = time.Now\n"
	if strings.Count(string(text), right) != 1 {
		return "", errors.New("the clock's source is not as the fault knows it")
	}
	dir := filepath.Join(g.s.dir, "skewed"+off.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	wrong := strings.Replace(string(text), right, fmt.Sprintf("wall = func() time.Time { return time.Now().Add(%d) }\n", off), 1)
	edited, overlay := filepath.Join(dir, "clock.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: edited}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(edited, []byte(wrong), 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "order-pusher")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-overlay", overlay, "-o", binary, procs.OrderPusher)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build a pusher whose clock is off: %w\n%s", err, out)
	}
	return binary, nil
}

// says is nil when the answer at url contains want.
func says(ctx context.Context, url, want string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err == nil && !strings.Contains(string(text), want) {
		err = fmt.Errorf("GET %s: %s: %s", url, answer.Status, text)
	}
	return err
}

// refuseAndTake makes JD refuse orders with a business error although it takes them, and show them only later.
func (g *stage) refuseAndTake(ctx context.Context, r *rand.Rand) error {
	lag := func(d time.Duration) error {
		_, err := g.Procs.Sandbox.SetKnobs(context.WithoutCancel(ctx), map[string]any{"find_lag": jdsandbox.Duration(d)})
		return err
	}
	if err := lag(refusedLag); err != nil {
		return err
	}
	err := g.window(ctx, history.Fault{Kind: history.JDRefused}, "refused-but-there", g.quick(draw(r, 5*time.Second, 10*time.Second)),
		jdsandbox.Fault{Kind: jdsandbox.Error, Methods: []string{"eclp.order.addOrder"}, Code: "5001", ZH: "系统处理中", Work: jdsandbox.WorkDone, Chance: 0.3})
	return errors.Join(err, lag(0))
}
