// Package secret is a text that does not show. It knows neither where secrets come from nor what they open.
package secret

import (
	"fmt"
	"io"
)

// Mask is what is printed in a secret's place.
const Mask = "***"

// Text prints as Mask whatever is done to print it, also inside other values.
type Text struct {
	// A pointer, because fmt and the like read fields of fields without asking Format.
	text *string
}

// New hides text.
func New(text string) Text { return Text{&text} }

// Reveal is the text itself, for signing, sealing and sending only.
func (t Text) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// Empty tells whether there is nothing to hide.
func (t Text) Empty() bool { return t.Reveal() == "" }

// Equal tells whether both hide the same text.
func (t Text) Equal(other Text) bool { return t.Reveal() == other.Reveal() }

// Format prints the mask for each verb.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// MarshalText makes encoders write the mask.
func (Text) MarshalText() ([]byte, error) { return []byte(Mask), nil }
