//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"stockbridge/services/all"
	"stockbridge/services/e2e/procs"
)

// allWorkers starts one of each service, but for those whose programs run already.
func (s *stand) allWorkers(ctx context.Context, but ...string) (list []*procs.Process, err error) {
	for _, service := range all.Services() {
		if slices.Contains(but, procs.Program(service.Name)) {
			continue
		}
		p, err := s.Worker(ctx, procs.Program(service.Name), service.Name, "LOG_LEVEL=warn")
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// servers are the processes of the stand that are neither workers nor JD.
func (s *stand) servers() map[string]*procs.Process {
	of := map[string]*procs.Process{}
	for _, p := range s.NATS.Nodes {
		of["nats-server"] = p
	}
	if s.Redis != nil {
		of["redis-server"] = s.Redis.Process
	}
	return of
}

// spent is the CPU time of each process so far.
func spent(of map[string]*procs.Process) (map[string]time.Duration, error) {
	all := map[string]time.Duration{}
	for name, p := range of {
		u, err := p.Usage()
		if err != nil {
			return nil, err
		}
		all[name] = u.CPU
	}
	return all, nil
}

// mib is bytes as MiB.
func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// scrape reads a worker's metrics: how long that took, and what it sent.
func scrape(ctx context.Context, p *procs.Process) (body []byte, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP+"/metrics", nil)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("scrape %s: %s", p.Name, res.Status)
	}
	return body, time.Since(began), err
}

// series is one value of a scrape, with its labels as they stand there.
type series struct {
	labels string
	value  float64
}

// label is the value of one of the labels, "" for none.
func (s series) label(name string) string {
	_, rest, ok := strings.Cut(","+s.labels, ","+name+`="`)
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// metric is all series of a name in a scrape. Values of labels must hold no commas or quotes, which ours do not.
func metric(body []byte, name string) (list []series) {
	for line := range bytes.Lines(body) {
		text, ok := strings.CutPrefix(strings.TrimSpace(string(line)), name)
		if !ok {
			continue
		}
		var s series
		if inner, ok := strings.CutPrefix(text, "{"); ok {
			s.labels, text, ok = strings.Cut(inner, "}")
			if !ok {
				continue
			}
		}
		value, ok := strings.CutPrefix(text, " ")
		if !ok {
			continue // another metric, whose name begins with this one
		}
		v, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			continue
		}
		s.value = v
		list = append(list, s)
	}
	return list
}

// redisCommands is how many commands redis-server has handled.
func (s *stand) redisCommands(ctx context.Context) (float64, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Redis.Addr())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "INFO stats\r\n"); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "total_commands_processed:"); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("ask redis-server for its commands: no answer: %w", lines.Err())
}

// load is the average number of processes that wanted to run during the last minute; 0 where the system does not say.
func load() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}
