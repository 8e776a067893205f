package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"stockbridge/pkg/token"
	"stockbridge/pkg/worker"
)

// TokenKeyFile is where a stack in dir keeps the key that seals tokens, unless it is given one. Without the file the
// tokens in dir are useless, and merchants have to consent again.
func TokenKeyFile(dir string) string { return filepath.Join(dir, "secrets", "token-key") }

// tokenKey reads the key of a stack in dir, and creates it the first time.
func tokenKey(dir string) (worker.Secret, error) {
	path := TokenKeyFile(dir)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(token.NewKey().Reveal() + "\n")
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
	}
	if err != nil {
		return "", fmt.Errorf("the key that seals tokens: %w", err)
	}
	if _, err := token.ParseKeys(string(text)); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return worker.Secret(strings.TrimSpace(string(text))), nil
}
