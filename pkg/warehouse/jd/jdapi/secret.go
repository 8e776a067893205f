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
	// maxSecret is the most that a file of a secret may have, in bytes.
	maxSecret = 16 << 10
)

// Secret is a text that prints as "***" whatever is done to print it.
type Secret = hidden.Text

// NewSecret hides text.
func NewSecret(text string) Secret { return hidden.New(text) }

// Source yields a secret as it is now.
type Source func() (string, error)

// Read reads the secret; none at all is an error.
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

// grain is how old a file's last change must be before its text is kept: two changes closer together than the file
// system's clock tells apart would look like one.
const grain = 2 * time.Second

// File is a secret in a file as it is now, so that whoever owns it can replace it: the file is looked at each time it is
// needed, and read again when it is another one or was changed.
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
	// Grant tells one giving of it from the next: on JD's old platform a refresh leaves the text as it is and makes it
	// live longer (docs/jd-api.md, Authorisation). Zero where nobody counts.
	Grant uint64
}

// Tokens keeps a merchant's access token (docs/jd-api.md, Authorisation). Its errors wrap ErrToken when it takes a person to mend them.
type Tokens interface {
	// Token is the token as it is now, never an empty one.
	Token(ctx context.Context) (Token, error)
	// Renew is told that JD does not take old, and gives what took its place, which is what stands there already when
	// that is a later grant. When there is none, the error wraps ErrToken.
	Renew(ctx context.Context, old Token) (Token, error)
}

// errSame: whoever keeps the token has not changed it.
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
