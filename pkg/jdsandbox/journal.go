package jdsandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// journal keeps the records of the state in a file, one JSON text a line, so that what was answered survives a kill or a
// power cut. Records are queued in the order of the state's changes, and an answer waits in sync until everything that it
// could have seen is on the disk. Waiting callers share one fsync.
type journal struct {
	mu      sync.Mutex
	done    sync.Cond // a write ended
	path    string
	file    *os.File // nil keeps nothing
	pending []byte
	queued  uint64 // records ever queued
	safe    uint64 // of those, on the disk
	writing bool
	broken  error
}

// openJournal replays path into the state. A last line without its end is the rest of an answer that was never sent, and
// is cut off; anything else that cannot be read is an error.
func openJournal(path string, s *state) (*journal, error) {
	j := &journal{path: path}
	j.done.L = &j.mu
	if path == "" {
		return j, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read state: %w", err)
	}
	whole := raw[:bytes.LastIndexByte(raw, '\n')+1]
	for n, rest := 1, whole; len(rest) > 0; n++ {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read state: %s line %d: %w", path, n, err)
		}
		s.apply(r)
		rest = after
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := errors.Join(file.Truncate(int64(len(whole))), seekEnd(file), syncDir(path)); err != nil {
		return nil, fmt.Errorf("open state: %w", errors.Join(err, file.Close()))
	}
	j.file = file
	return j, nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, 2)
	return err
}

// syncDir makes a new name in the directory survive a power cut. Errors of systems that cannot sync directories are
// ignored.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	_ = dir.Sync()
	return nil
}

// add queues a record. It does not wait.
func (j *journal) add(r record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		j.broken = errors.Join(j.broken, err)
		return
	}
	j.pending = append(append(j.pending, line...), '\n')
	j.queued++
}

// sync returns when everything queued before is on the disk. After an error the journal stays broken, because the file
// may hold half a record.
func (j *journal) sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for want := j.queued; j.broken == nil && j.safe < want; {
		if j.writing {
			j.done.Wait()
			continue
		}
		batch, upto := j.pending, j.queued
		j.pending, j.writing = nil, true
		j.mu.Unlock()
		_, err := j.file.Write(batch)
		if err == nil {
			err = j.file.Sync()
		}
		j.mu.Lock()
		j.writing = false
		if err != nil {
			j.broken = fmt.Errorf("write state: %w", err)
		} else {
			j.safe = upto
		}
		j.done.Broadcast()
	}
	return j.broken
}

// restart replaces the file by one with only these records, atomically.
func (j *journal) restart(records ...record) error {
	if err := j.sync(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	var text []byte
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	next, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("reset state: %w", err)
	}
	_, err = next.Write(text)
	if err = errors.Join(err, next.Sync()); err == nil {
		// Closed first, because some systems do not rename onto an open file.
		err = errors.Join(j.file.Close(), os.Rename(next.Name(), j.path), syncDir(j.path))
	}
	if err != nil {
		j.broken = fmt.Errorf("reset state: %w", errors.Join(err, next.Close()))
		return j.broken
	}
	j.file = next
	return nil
}

func (j *journal) close() error {
	err := j.sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return err
	}
	err = errors.Join(err, j.file.Close())
	j.file, j.broken = nil, errors.Join(j.broken, errors.New("the sandbox is closed"))
	return err
}
