//go:build unix

package procs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Copy is the data of a server, or of the nodes of a cluster, at an earlier time.
type Copy struct{ dirs []string }

// copyOf freezes the processes, copies their folders and wakes them: a consistent snapshot of the disks. Processes that
// do not run are copied as they are.
func (r *Run) copyOf(processes []*Process, folders []string) (c Copy, err error) {
	at, err := os.MkdirTemp(r.o.Dir, "copy-")
	if err != nil {
		return c, err
	}
	for _, p := range processes {
		if !p.Alive() {
			continue
		}
		if err := p.Pause(); err != nil {
			return c, err
		}
		defer func() { err = errors.Join(err, p.Continue()) }()
	}
	for i, folder := range folders {
		to := filepath.Join(at, fmt.Sprint(i))
		if err := os.CopyFS(to, os.DirFS(folder)); err != nil {
			return c, fmt.Errorf("copy %s: %w", folder, err)
		}
		c.dirs = append(c.dirs, to)
	}
	return c, nil
}

// restore kills the processes, replaces their data by the copy (an empty Copy leaves nothing) and starts them again.
func restore(ctx context.Context, processes []*Process, folders []string, c Copy, start func(context.Context) error) error {
	for _, p := range processes {
		if p.Alive() {
			if err := p.Kill(); err != nil {
				return err
			}
		}
	}
	for i, folder := range folders {
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("remove %s: %w", folder, err)
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if c.dirs == nil {
			continue
		}
		if err := os.CopyFS(folder, os.DirFS(c.dirs[i])); err != nil {
			return fmt.Errorf("restore %s: %w", folder, err)
		}
	}
	return start(ctx)
}
