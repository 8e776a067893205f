package jdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	hidden "stockbridge/pkg/secret"
)

const (
	masked = hidden.Mask
	// maxSecret is the largest file of a secret, in bytes.
	maxSecret = 16 << 10
)

// Secret is a string that always prints as "***".
type Secret = hidden.Text

// NewSecret makes a Secret.
func NewSecret(text string) Secret { return hidden.New(text) }

// Source returns the current value of a secret.
type Source func() (string, error)

// Read reads the secret; an empty one is an error.
func (s Source) Read() (Secret, error) {
	if s == nil {
		return Secret{}, errors.New("none is set up")
	}
	text, err := s()
	if err != nil {
		return Secret{}, err
	}
	if text = strings.TrimSpace(text); text == "" {
		return Secret{}, errors.New("it is empty")
	}
	return NewSecret(text), nil
}

// grain is the minimum age of a file's last change before its content is cached: two changes within the resolution of the
// file system's clock would look like one.
const grain = 2 * time.Second

// File is a secret in a file, whose owner may replace it: the file is examined at each use and read again if it was
// replaced or changed.
func File(path string) Source {
	type reading struct {
		of   os.FileInfo
		text string
	}
	var last atomic.Pointer[reading]
	return func() (string, error) {
		now, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if r := last.Load(); r != nil && os.SameFile(r.of, now) && r.of.ModTime().Equal(now.ModTime()) && r.of.Size() == now.Size() {
			return r.text, nil
		}
		text, err := readSecret(path)
		if err == nil && time.Since(now.ModTime()) > grain {
			last.Store(&reading{now, text})
		}
		return text, err
	}
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxSecret {
		return "", fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	return string(text), nil
}

// Token is a merchant's access token.
type Token struct {
	Secret Secret
	// Grant distinguishes two grants: on JD's old platform a refresh keeps the token's text and extends its life. Zero if
	// grants are not counted.
	Grant uint64
}

// Tokens keeps a merchant's access token (docs/jd-api.md, Authorisation). Its errors wrap ErrToken if only a person can
// fix them.
type Tokens interface {
	// Token returns the current token, never an empty one.
	Token(ctx context.Context) (Token, error)
	// Renew reports that JD does not accept old and returns its successor, which is the current token if that is a later
	// grant. If there is none, the error wraps ErrToken.
	Renew(ctx context.Context, old Token) (Token, error)
}

// errSame: the token has not been replaced.
var errSame = errors.New("it still reads the same")

// Reread is a token that somebody else keeps fresh: Renew only reads it again.
type Reread struct{ Source Source }

// Token reads the token.
func (t Reread) Token(context.Context) (Token, error) {
	token, err := t.Source.Read()
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return Token{Secret: token}, nil
}

// Renew reads the token again.
func (t Reread) Renew(ctx context.Context, old Token) (Token, error) {
	token, err := t.Token(ctx)
	if err == nil && token.Secret.Equal(old.Secret) {
		err = fmt.Errorf("%w: %w", ErrToken, errSame)
	}
	return token, err
}
