package faultproxy_test

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"stockbridge/pkg/faultproxy"
)

// echo answers each line with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestARequestIsMetOnce(t *testing.T) {
	p, err := faultproxy.Start("127.0.0.1:0", echo(t), faultproxy.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	say := func(line string) string {
		t.Helper()
		if _, err := fmt.Fprintln(c, line); err != nil {
			t.Fatal(err)
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(answer)
	}
	if got := say("ack one"); got != "ack one" {
		t.Fatal(got)
	}
	met := p.LoseAnswer(regexp.MustCompile(`ack [a-z]+`).Match)
	if got := say("other"); got != "other" {
		t.Fatal(got)
	}
	select {
	case <-met:
		t.Fatal("met what was sent before")
	default:
	}
	if got := say("ack two"); got == "ack two" {
		t.Errorf("an answer that was cut: %q", got)
	}
	<-met

	// What follows the request does not get through.
	c2, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	met = p.HoldAfter(regexp.MustCompile("ack three\n").Match)
	if _, err := fmt.Fprint(c2, "before\nack three\nbehind\n"); err != nil {
		t.Fatal(err)
	}
	<-met
	answers = bufio.NewReader(c2)
	for _, want := range []string{"before\n", "ack three\n"} {
		if got, err := answers.ReadString('\n'); err != nil || got != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	p.Close()
	if got, err := answers.ReadString('\n'); err == nil {
		t.Errorf("got through: %q", got)
	}
}
