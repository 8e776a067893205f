//go:build unix

package plant

import (
	"bytes"
	"os"

	"stockbridge/services/e2e/procs"
)

// logged counts the lines of a process's log that contain text.
func logged(p *procs.Process, text string) (int, error) {
	raw, err := os.ReadFile(p.LogFile())
	return bytes.Count(raw, []byte(text)), err
}
