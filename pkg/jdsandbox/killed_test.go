package jdsandbox_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// TestMain lets the test binary be a sandbox, so that it can be killed.
func TestMain(m *testing.M) {
	if state, play := os.LookupEnv("PLAY_JD_STATE"); play {
		jd, err := jdsandbox.New(jdsandbox.Config{State: state})
		if err != nil {
			panic(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(listener.Addr())
		panic(http.Serve(listener, jd))
	}
	os.Exit(m.Run())
}

// TestWhatWasAnsweredSurvivesAKill: what was answered before a kill is there after it, under the same number, and nothing is there twice.
func TestWhatWasAnsweredSurvivesAKill(t *testing.T) {
	state := filepath.Join(t.TempDir(), "jd.journal")
	var mu sync.Mutex
	answered := map[string]string{}
	next := 0
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PLAY_JD_STATE="+state)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		addr, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal("it did not start: ", err)
		}
		client := &sandbox{t: t, url: "http://" + strings.TrimSpace(addr) + "/routerjson", clock: &hostClock{now: time.Now()}}

		enough := make(chan struct{}, 1)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					mu.Lock()
					next++
					number := fmt.Sprintf("A-%d", next)
					mu.Unlock()
					answer, err := client.call(addOrder, anOrder(number))
					if err != nil {
						return // killed
					}
					mu.Lock()
					answered[number] = answer["eclpSoNo"].(string)
					if len(answered) == 100*(round+1) {
						enough <- struct{}{}
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		cmd.Process.Kill()
		wg.Wait()
		cmd.Wait()
	}
	jd, err := jdsandbox.New(jdsandbox.Config{State: state})
	if err != nil {
		t.Fatal(err)
	}
	defer jd.Close()
	held := map[string]string{}
	for _, d := range jd.Documents() {
		if held[d.IsvUUID] != "" {
			t.Errorf("%s is there twice", d.IsvUUID)
		}
		held[d.IsvUUID] = d.EclpSoNo
	}
	for number, no := range answered {
		if held[number] != no {
			t.Errorf("%s was answered %s, held is %q", number, no, held[number])
		}
	}
	t.Logf("%d answered, %d held", len(answered), len(held))
}
