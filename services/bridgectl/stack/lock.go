package stack

import (
	"errors"
	"fmt"
	"path/filepath"
)

// ErrInUse says that another process uses the data directory. Two of them would destroy each other's files.
var ErrInUse = errors.New("another process works there")

var errLocked = errors.New("locked")

// lock makes this process the only one that uses dir, until the returned function is called or the process ends in any
// way.
func lock(dir string) (unlock func(), err error) {
	unlock, err = lockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, errLocked) {
		err = ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return unlock, nil
}
