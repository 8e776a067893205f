// Package history is the record of a run with faults: a folder of JSON-lines files, from which package checker judges
// the promises without asking any of the processes.
//
// It knows events, the ledger and the sandbox's control API. It knows no process and breaks nothing: the driver of the
// run (package chaos, a planted bug's scenario) reports to a Recorder what it did and when.
//
//	settings.jsonl   one line: deadlines, grace, quotas of the apps
//	audits.jsonl     each publishing of an audit by the ERP, with its answer
//	acts.jsonl       what an operator did to an order: replay, drop, release
//	events.jsonl     what was seen of the public streams while it happened, and marks where a stream was restored
//	faults.jsonl     what was done to the system, from when to when
//	processes.jsonl  starts, signals and ends of the workers
//	calls.jsonl      the sandbox's log of calls, page by page
//	documents.jsonl  what the sandbox has at the end
//	violations.jsonl what the sandbox counted itself, one line
//	dead_letters.jsonl  the dead letters and held messages at the end
//	ledger.jsonl     the ledger's entry of each audited number at the end
//	end.jsonl        one line, written last: how many lines each file has
//
// # Why
//
// Events are followed during the run, because a restore of JetStream removes events that the ERP has seen
// already. They are read once more at the end, so lines repeat; (stream, seq, stored) identifies them.
//
// A file that is missing, cut off or shorter than end.jsonl says is an error and never a run without faults.
package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
)

// File is the name of one of the files; T is the type of its lines.
type File[T any] string

// The files.
const (
	Settings    File[Setting]              = "settings.jsonl"
	Audits      File[Audit]                = "audits.jsonl"
	Acts        File[Act]                  = "acts.jsonl"
	Events      File[Event]                = "events.jsonl"
	Faults      File[Fault]                = "faults.jsonl"
	Processes   File[Process]              = "processes.jsonl"
	Calls       File[Call]                 = "calls.jsonl"
	Documents   File[jdsandbox.Document]   = "documents.jsonl"
	Violations  File[jdsandbox.Violations] = "violations.jsonl"
	DeadLetters File[DeadLetter]           = "dead_letters.jsonl"
	Ledger      File[Entry]                = "ledger.jsonl"

	end = "end.jsonl"
)

func files() []string {
	return []string{
		string(Settings), string(Audits), string(Acts), string(Events), string(Faults), string(Processes), string(Calls),
		string(Documents), string(Violations), string(DeadLetters), string(Ledger),
	}
}

// Setting is what the checker has to know of the run. Durations are in seconds.
type Setting struct {
	Began time.Time `json:"began"`
	// What describes the run for people; Seed repeats it as far as it can be repeated.
	What string `json:"what"`
	Seed uint64 `json:"seed,omitempty"`
	// DeadlineSeconds is within what time an acknowledged audit must have an outcome while nothing was down.
	DeadlineSeconds float64 `json:"deadline_seconds"`
	// GraceSeconds is how long a worker may take to end after SIGTERM.
	GraceSeconds float64 `json:"grace_seconds"`
	// HealthySeconds is within what time an order of a healthy seller must be accepted, whatever other sellers do and
	// while nothing is down.
	HealthySeconds float64 `json:"healthy_seconds"`
	// MaxAttempts is the workers' PUSH_MAX_ATTEMPTS.
	MaxAttempts int `json:"max_attempts"`
	// Reconciles: a reconciler ran, and completed a cycle for each seller after the last fault.
	Reconciles bool  `json:"reconciles,omitempty"`
	Apps       []App `json:"apps"`
}

// App is one credential at the warehouse with what JD allows it; 0 is no limit.
type App struct {
	Key        string `json:"key"`
	PerSecond  int    `json:"per_second"`
	Concurrent int    `json:"concurrent"`
}

// Audit is one publishing of an audit.
type Audit struct {
	Seller     string   `json:"seller"`
	OrderNo    string   `json:"order_no"`
	OutboundNo string   `json:"outbound_no"`
	Lines      []string `json:"lines"`
	Revision   int64    `json:"revision"`
	Supersedes string   `json:"supersedes,omitempty"`
	// Hash of the content (HashOf): two contents under one number are two different orders.
	Hash string `json:"hash"`
	// Sent is when publishing began; Acked when the stream had answered, zero when it never did: no promise covers such
	// an audit.
	Sent  time.Time `json:"sent"`
	Acked time.Time `json:"acked,omitzero"`
	// Again: the same content was published before, as a repetition or after a restore.
	Again bool `json:"again,omitempty"`
	// Group is the audit's role in the run, if any: Healthy, or one of those that crowd.
	Group string `json:"group,omitempty"`
}

// Healthy is the group that must not be delayed by faults of other sellers.
const Healthy = "healthy"

// Act is what an operator did to an order.
type Act struct {
	Seller     string    `json:"seller"`
	OutboundNo string    `json:"outbound_no"`
	What       string    `json:"what"`
	At         time.Time `json:"at"`
}

// What operators do.
const (
	Replayed = "replayed"
	Released = "released"
	Dropped  = "dropped"
)

// Event is a stored event that was seen, or a mark (Rollback or Final).
type Event struct {
	Stream string    `json:"stream,omitempty"`
	Seq    uint64    `json:"seq,omitempty"`
	Stored time.Time `json:"stored,omitzero"`
	// Seen is when it was read.
	Seen   time.Time `json:"seen"`
	Name   string    `json:"name,omitempty"`
	ID     string    `json:"id,omitempty"`
	Seller string    `json:"seller,omitempty"`
	// OutboundNo, Revision and Number (the warehouse's) are the order's, for events about orders.
	OutboundNo string `json:"outbound_no,omitempty"`
	Revision   int64  `json:"revision,omitempty"`
	Number     string `json:"number,omitempty"`
	// Cause of order.held, Code of order.failed's reason; Hash of an audit's content.
	Cause string `json:"cause,omitempty"`
	Code  string `json:"code,omitempty"`
	Hash  string `json:"hash,omitempty"`
	// Rollback says that JetStream was restored to an older copy: what was stored after that copy is gone.
	Rollback bool `json:"rollback,omitempty"`
	// Copied is when that copy was taken.
	Copied time.Time `json:"copied,omitzero"`
	// Final says that the following lines are the final content of the streams.
	Final bool `json:"final,omitempty"`
}

// Fault is something that was done to the system.
type Fault struct {
	Kind string `json:"kind"`
	// Target is a process, a server, a seller.
	Target string    `json:"target,omitempty"`
	Began  time.Time `json:"began"`
	// Ended equals Began when it was instantaneous.
	Ended time.Time `json:"ended"`
	// Outage: nothing can be expected of orders while it lasts. The checker subtracts its span from the time they took.
	Outage bool `json:"outage,omitempty"`
	// Copied is when the copy was taken that a restore used.
	Copied time.Time `json:"copied,omitzero"`
	Detail string    `json:"detail,omitempty"`
}

// Kinds of faults that the checker knows; a run may have others, which it only counts.
const (
	// Killed: SIGKILL of a worker.
	Killed = "killed"
	// Frozen: SIGSTOP to SIGCONT.
	Frozen = "frozen"
	// RedisKilled, RedisWiped, RedisRestored: the ledger.
	RedisKilled   = "redis-killed"
	RedisWiped    = "redis-wiped"
	RedisRestored = "redis-restored"
	// RedisCut: answers of Redis were cut off.
	RedisCut = "redis-cut"
	// RedisFull, BrokerFull: no space on the disk.
	RedisFull  = "redis-full"
	BrokerFull = "broker-full"
	// BrokerKilled, BrokerRestored: nats-server, and JetStream restored to an older copy.
	BrokerKilled   = "broker-killed"
	BrokerRestored = "broker-restored"
	// BrokerCut: answers of the broker were cut off.
	BrokerCut = "broker-cut"
	// JDLost: answers of JD were lost; JDSlow: JD answers slowly; JDDown: JD does not answer.
	JDLost = "jd-lost"
	JDSlow = "jd-slow"
	JDDown = "jd-down"
	// SetupChanged: a seller's set-up named another account for a while.
	SetupChanged = "setup-changed"
	// JDRefused: JD refused orders with a business error although it took them, and showed them later.
	JDRefused = "jd-refused"
	// Skewed: a worker on a host whose clock is off ran beside the others.
	Skewed = "skewed"
	// Crowded: other sellers flood, or their orders are delayed or held, while Healthy ones continue.
	Crowded = "crowded"
	// Scaled: workers were added or removed.
	Scaled = "scaled"
)

// Process is an event of a process.
type Process struct {
	// Name is that of the process in the run, Program that of the binary.
	Name    string    `json:"name"`
	Program string    `json:"program"`
	PID     int       `json:"pid"`
	What    string    `json:"what"`
	At      time.Time `json:"at"`
	// Code is the exit code of Ended, −1 when a signal ended it.
	Code int `json:"code,omitempty"`
}

// Events of processes.
const (
	Started = "started"
	// Termed: SIGTERM was sent.
	Termed = "termed"
	// Kill: SIGKILL was sent.
	Kill  = "killed"
	Ended = "ended"
)

// Call is a line of the sandbox's log, or the mark that some of it is missing (Missing set).
type Call struct {
	jdsandbox.Call
	// Missing says why calls before this one are not known.
	Missing string `json:"missing,omitempty"`
}

// DeadLetter is a dead letter or held message, without its body. A group is a line for each of its messages that its stream still has.
type DeadLetter struct {
	Kind       string `json:"kind"`
	Consumer   string `json:"consumer"`
	Seq        uint64 `json:"seq"`
	Seller     string `json:"seller,omitempty"`
	OutboundNo string `json:"outbound_no,omitempty"`
	Hash       string `json:"hash,omitempty"`
	Class      string `json:"class,omitempty"`
	Cause      string `json:"cause,omitempty"`
	Code       string `json:"code,omitempty"`
	Error      string `json:"error,omitempty"`
	Attempts   int    `json:"attempts"`
	// Stream and OriginSeq are where the message stands, First is when it was stored there.
	Stream    string    `json:"stream,omitempty"`
	OriginSeq uint64    `json:"origin_seq"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// Entry is the ledger's entry of an audited number.
type Entry struct {
	Seller     string `json:"seller"`
	OutboundNo string `json:"outbound_no"`
	// Missing: the ledger has none.
	Missing  bool             `json:"missing,omitempty"`
	State    ledger.State     `json:"state,omitempty"`
	Number   string           `json:"number,omitempty"`
	Tries    int              `json:"tries,omitempty"`
	Attempts []ledger.Attempt `json:"attempts,omitempty"`
}

// ending is the line of end.jsonl.
type ending struct {
	At    time.Time      `json:"at"`
	Lines map[string]int `json:"lines"`
}

// ErrIncomplete says that the folder does not hold a whole run.
var ErrIncomplete = errors.New("the history is incomplete")

// Check reports whether all files are there with as many lines as the run wrote; else the error wraps ErrIncomplete and
// names each faulty file.
func Check(dir string) (ended time.Time, err error) {
	var last ending
	n := 0
	if err := read(dir, end, func(raw []byte) error { n++; return strict(raw, &last) }); err != nil {
		return time.Time{}, err
	}
	if n != 1 {
		return time.Time{}, fmt.Errorf("%w: %s has %d lines, should have 1: the run did not get to its end", ErrIncomplete, end, n)
	}
	var faults []error
	for _, name := range files() {
		want, seen := last.Lines[name]
		have := 0
		err := read(dir, name, func([]byte) error { have++; return nil })
		switch {
		case err != nil:
			faults = append(faults, err)
		case !seen:
			faults = append(faults, fmt.Errorf("%w: %s says nothing of %s", ErrIncomplete, end, name))
		case have != want:
			faults = append(faults, fmt.Errorf("%w: %s has %d lines, %s says %d", ErrIncomplete, name, have, end, want))
		}
	}
	return last.At, errors.Join(faults...)
}

// Read calls f for each line of the file in dir; f may end the reading with an error. Errors name the file and line;
// those of missing and unreadable lines wrap ErrIncomplete.
func (name File[T]) Read(dir string, f func(T) error) error {
	return read(dir, string(name), func(raw []byte) error {
		var line T
		if err := strict(raw, &line); err != nil {
			return err
		}
		return f(line)
	})
}

// maxLine bounds a line, in bytes.
const maxLine = 4 << 20

func read(dir, name string, f func([]byte) error) error {
	file, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	defer file.Close() //nolint:errcheck // only read
	r := bufio.NewReaderSize(file, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: cut off: no end of line", ErrIncomplete)
		}
		if err == nil {
			err = f(line)
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
}

// readLine returns the next line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return line, fmt.Errorf("%w: longer than %d bytes", ErrIncomplete, maxLine)
		case err == nil:
			return bytes.TrimSuffix(line, []byte{'\n'}), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		}
	}
}

func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: not readable: %w", ErrIncomplete, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one value", ErrIncomplete)
	}
	return nil
}
