// Package secret provides a string that prints as ***. It knows neither where secrets come from nor what they open.
package secret

import (
	"fmt"
	"io"
)

// Mask is printed in place of a secret.
const Mask = "***"

// Text prints as Mask however it is printed, also inside other values.
type Text struct {
	// A pointer, because fmt and others read fields of fields without calling Format.
	text *string
}

// New hides text.
func New(text string) Text { return Text{&text} }

// Reveal returns the string itself, for signing, sealing and sending only.
func (t Text) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// Empty reports whether the string is empty.
func (t Text) Empty() bool { return t.Reveal() == "" }

// Equal reports whether both hide the same string.
func (t Text) Equal(other Text) bool { return t.Reveal() == other.Reveal() }

// Format prints the mask for each verb.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// MarshalText makes encoders write the mask.
func (Text) MarshalText() ([]byte, error) { return []byte(Mask), nil }
