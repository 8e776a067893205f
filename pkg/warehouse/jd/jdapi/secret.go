package jdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	masked = "***"
	// maxSecret is the most that a file of a secret may have, in bytes.
	maxSecret = 16 << 10
)

// Secret is a text that prints as "***" whatever is done to print it, also inside other values.
type Secret struct {
	// A pointer, because fmt and the like read fields of fields without asking Format.
	text *string
}

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal is the text itself, for signing and sending only.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Equal tells whether both hide the same text.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// Format prints the mask for each verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }

// MarshalText makes encoders write the mask.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

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

// File is a secret in a file, read each time it is needed, so that whoever owns it can replace it.
func File(path string) Source {
	return func() (string, error) {
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
}

// Tokens keeps a merchant's access token (§1.7). Its errors wrap ErrToken when it takes a person to mend them.
type Tokens interface {
	// Token is the token as it is now, never an empty one.
	Token(ctx context.Context) (Secret, error)
	// Renew is told that JD does not take old, and gives what took its place: the present token when that is another
	// already. Giving old back means that there is none.
	Renew(ctx context.Context, old Secret) (Secret, error)
}

// Reread is a token that somebody else keeps fresh: Renew only reads it again.
type Reread struct{ Source Source }

// Token reads the token.
func (t Reread) Token(context.Context) (Secret, error) {
	token, err := t.Source.Read()
	if err != nil {
		return Secret{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return token, nil
}

// Renew reads the token again.
func (t Reread) Renew(ctx context.Context, _ Secret) (Secret, error) { return t.Token(ctx) }
