package stack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
	"stockbridge/pkg/smalldisk"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
)

// up is a running `bridgectl up`.
type up struct {
	stop  context.CancelFunc
	ended chan error
	mu    sync.Mutex
	out   bytes.Buffer
}

func (u *up) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.out.Write(p)
}

// where is the address that it prints for name; "" before it does.
func (u *up) where(name string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, after, _ := strings.Cut(u.out.String(), "  "+name+" ")
	if fields := strings.Fields(after); len(fields) > 0 {
		return fields[0]
	}
	return ""
}

func startUp(t *testing.T, dir string) *up {
	t.Helper()
	o := options(dir)
	o.NoSync, o.HTTPAddr = false, "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	u := &up{stop: cancel, ended: make(chan error, 1)}
	t.Cleanup(cancel)
	go func() { u.ended <- stack.Run(ctx, o, u) }()
	return u
}

// eventually waits for what must happen; the limit only bounds a failure.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A full disk ends `up` with advice what to do. After that was done, every acknowledged order is at the warehouse once.
func TestUpEndsOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk, err := smalldisk.Mount(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Unmount() })
	dir := disk.Dir + "/data"
	first := startUp(t, dir)
	eventually(t, "it runs", func() bool { return first.where("data") != "" })

	// The ERP publishes again what it could not, under the same id.
	erp := bustest.Connect(t, first.where("NATS"))
	made := orders.New(stack.DemoSeller, 3)
	var acked, open []event.Event
	publish := func(b *bus.Bus, e event.Event, limit time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return b.Publish(ctx, e) == nil
	}
	audit := func() event.Event {
		o := made.Next()
		return event.OrderAudited.About(o.GetSeller(), o.GetOutboundNo(), time.Now(), o)
	}
	for range 20 { // all of them get a slot at once
		e := audit()
		if !publish(erp, e, 20*time.Second) {
			t.Fatal("nothing is stored")
		}
		acked = append(acked, e)
	}
	// None is in hand when the disk fills up: an order whose claim died with its owner waits until the claim expires.
	delivered := func(u *up, n int) {
		t.Helper()
		jd := control.New(u.where("sandbox"))
		eventually(t, fmt.Sprintf("all %d are at the warehouse", n), func() bool {
			docs, err := jd.Documents(t.Context(), jdsandbox.Query{})
			return err == nil && len(docs) >= n
		})
	}
	delivered(first, len(acked))
	if err := disk.Fill(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		o := made.Next()
		for len(o.GetLines()) < 100 { // more than the stream's last page has room for
			line := proto.CloneOf(o.GetLines()[0])
			line.LineId = fmt.Sprint(len(o.GetLines()) + 1)
			o.Lines = append(o.Lines, line)
		}
		e := event.OrderAudited.About(o.GetSeller(), o.GetOutboundNo(), time.Now(), o)
		if publish(erp, e, 300*time.Millisecond) {
			t.Fatal("stored without space")
		}
		open = append(open, e)
	}
	ends := func(u *up, what string) {
		t.Helper()
		select {
		case err := <-u.ended:
			if !errors.Is(err, stack.ErrDiskFull) || !strings.Contains(err.Error(), "free space and start again") || !strings.Contains(err.Error(), dir) {
				t.Fatalf("%s: %v", what, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: it does not end", what)
		}
	}
	ends(first, "in mid-flow")
	erp.Close()
	ends(startUp(t, dir), "started while there is no space")

	// The documented step.
	if err := disk.Free(); err != nil {
		t.Fatal(err)
	}
	again := startUp(t, dir)
	eventually(t, "it runs again", func() bool { return again.where("data") != "" })
	eventually(t, "it is ready", func() bool {
		res, err := http.Get(again.where("health"))
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
	erp = bustest.Connect(t, again.where("NATS"))
	for _, e := range open {
		if !publish(erp, e, 20*time.Second) {
			t.Fatal("nothing is stored after the restart")
		}
	}
	want := len(acked) + len(open)
	jd := control.New(again.where("sandbox"))
	delivered(again, want)
	docs, err := jd.Documents(t.Context(), jdsandbox.Query{})
	numbers := map[string]bool{}
	for _, d := range docs {
		numbers[d.IsvUUID] = true
	}
	if v, bad := jd.Violations(t.Context()); err != nil || bad != nil || len(docs) != want || len(numbers) != want || v.Total != 0 {
		t.Errorf("%d documents, %d numbers, want %d; violations %v (%v %v)", len(docs), len(numbers), want, v.Counts, err, bad)
	}
	erp.Close()
	again.stop()
	if err := <-again.ended; err != nil {
		t.Errorf("asked to stop: %v", err)
	}
}
