// Package personal hides people's data in text that others wrote: a warehouse that quotes an order in its refusal, a
// body that cannot be read, a line that an earlier build stored. It knows no document and no warehouse.
//
// # Why
//
// A remote quotes what it was sent as it likes: a phone number with blanks, half of an address, a name inside a
// sentence. So whole values are not enough. Hide looks for any digits in a row and, where the data of the call is
// known, for any part of it that is long enough not to be an accident. It rather hides too much: the code and our own
// text say what to do, the remote's text is extra help.
package personal

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Mask stands in place of what is hidden.
const Mask = "***"

const (
	// minDigits in a row, blanks and dashes between them not counted, are hidden: the shortest land line has seven.
	minDigits = 7
	// maxGap is how many blanks and dashes may stand between two digits of one number.
	maxGap = 2
	// How much of a value has to be in a text to be hidden. A Chinese character weighs 2, a letter or a digit 1.
	phoneWeight, addressWeight, remarkWeight = 4, 6, 8
	// minKnown is the least weight of a value that may be shown.
	minKnown = 4
)

// Data is the known data of the people that a text may quote. The zero value has none: digits and e-mail addresses
// are hidden all the same.
type Data struct {
	// Names are hidden whole, or in part when they are long; Phones from four digits on; Addresses (also e-mail) and
	// Remarks wherever a piece of them is quoted.
	Names, Phones, Addresses, Remarks []string
	// Known are not personal and may be shown although they contain digits: numbers of documents and goods, areas.
	Known []string
}

var (
	email = regexp.MustCompile(`[\pL\pN._%+-]+[@＠][\pL\pN-]+([.．][\pL\pN-]+)+`)
	// number matches numbers of documents and goods, which quote nothing.
	number = regexp.MustCompile(`^[0-9A-Za-z._/#:-]{1,200}$`)
	// date matches a program's timestamp, which is no telephone number.
	date = regexp.MustCompile(`\b(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?\b`)
)

// Hide replaces e-mail addresses and seven or more digits in a row by Mask.
func Hide(text string) string { return Data{}.Hide(text) }

// Hide replaces everything that may be personal by Mask.
func (d Data) Hide(text string) string {
	if text == "" {
		return ""
	}
	t := newText(text)
	t.mark(email.FindAllStringIndex(text, -1))
	t.keep(date.FindAllStringIndex(text, -1))
	for _, v := range d.Known {
		if !d.holdsPersonal(v) {
			t.keepValue(v)
		}
	}
	for _, v := range d.Names {
		t.hideName(v)
	}
	for _, v := range d.Phones {
		t.hideParts(v, phoneWeight)
	}
	for _, v := range d.Addresses {
		t.hideParts(v, addressWeight)
	}
	for _, v := range d.Remarks {
		t.hideParts(v, remarkWeight)
	}
	t.hideDigits()
	return t.String()
}

// In reports whether text quotes any of the names, telephone numbers and addresses.
func (d Data) In(text string) bool {
	t := newText(text)
	for _, v := range d.Known {
		if !d.holdsPersonal(v) {
			t.keepValue(v)
		}
	}
	for _, v := range d.Names {
		t.hideName(v)
	}
	for _, v := range d.Phones {
		t.hideParts(v, minDigits)
	}
	for _, v := range d.Addresses {
		t.hideParts(v, addressWeight)
	}
	return slices.Contains(t.hidden, true)
}

// holdsPersonal reports whether a supposedly public value contains a name or a telephone number.
func (d Data) holdsPersonal(value string) bool {
	v := string(folded(value))
	for _, p := range slices.Concat(d.Names, d.Phones) {
		if f := folded(p); len(f) > 1 && strings.Contains(v, string(f)) {
			return true
		}
	}
	return false
}

// Error is err with everything that may be personal hidden in its text. errors.Is and errors.As find what it wraps as
// before.
func (d Data) Error(err error) error {
	if err == nil {
		return nil
	}
	shown := d.Hide(err.Error())
	if shown == err.Error() {
		return err
	}
	return &redactedError{shown, err}
}

type redactedError struct {
	shown string
	err   error
}

func (h *redactedError) Error() string { return h.shown }

// Is and As replace Unwrap, which would reveal the text.
func (h *redactedError) Is(target error) bool { return errors.Is(h.err, target) }
func (h *redactedError) As(target any) bool   { return errors.As(h.err, target) }

// text is a text being redacted.
type text struct {
	runes []rune
	// offset of each rune, in bytes.
	offset []int
	hidden []bool
	kept   []bool
	// letters are the folded letters and digits among the runes, at is the position of each.
	letters []rune
	at      []int
}

func newText(s string) *text {
	t := &text{}
	for i, r := range s {
		t.runes, t.offset = append(t.runes, r), append(t.offset, i)
		if f, ok := fold(r); ok {
			t.letters, t.at = append(t.letters, f), append(t.at, len(t.runes)-1)
		}
	}
	t.hidden, t.kept = make([]bool, len(t.runes)), make([]bool, len(t.runes))
	return t
}

func (t *text) String() string {
	var b strings.Builder
	for i, r := range t.runes {
		switch {
		case !t.hidden[i]:
			b.WriteRune(r)
		case i == 0 || !t.hidden[i-1]:
			b.WriteString(Mask)
		}
	}
	return b.String()
}

// each calls f for the runes of places, which are in bytes.
func (t *text) each(places [][]int, f func(i int)) {
	at := 0
	for _, p := range places {
		for at < len(t.offset) && t.offset[at] < p[0] {
			at++
		}
		for ; at < len(t.offset) && t.offset[at] < p[1]; at++ {
			f(at)
		}
	}
}

func (t *text) mark(places [][]int) { t.each(places, func(i int) { t.hidden[i] = true }) }
func (t *text) keep(places [][]int) { t.each(places, func(i int) { t.kept[i] = true }) }

// keepValue keeps a value where it stands as a word of its own, unless it is hidden already.
func (t *text) keepValue(value string) {
	v := folded(value)
	if weigh(v) < minKnown || strings.ContainsFunc(value, unicode.IsDigit) && !number.MatchString(value) {
		return
	}
	t.places(v, true, func(from, to int) {
		for i := from; i <= to; i++ {
			t.kept[i] = !t.hidden[i]
		}
	})
}

// hideName hides a name: whole, and a part of it when it is long. A single character reveals nothing.
func (t *text) hideName(name string) {
	v := folded(name)
	if len(v) < 2 {
		return
	}
	t.places(v, true, t.hide)
	t.hideParts(name, addressWeight)
}

// places calls f for each position of v, from its first to its last rune. word: Latin letters and digits of v must
// not continue in the text.
func (t *text) places(v []rune, word bool, f func(from, to int)) {
	for i := 0; i+len(v) <= len(t.letters); i++ {
		if !equal(t.letters[i:i+len(v)], v) {
			continue
		}
		from, to := t.at[i], t.at[i+len(v)-1]
		if word && (continuesWord(v[0], t.runes, from-1) || continuesWord(v[len(v)-1], t.runes, to+1)) {
			continue
		}
		f(from, to)
	}
}

// continuesWord reports whether a word that ends with r continues with the rune at i.
func continuesWord(r rune, runes []rune, i int) bool {
	if i < 0 || i >= len(runes) || unicode.Is(unicode.Han, r) {
		return false
	}
	next, ok := fold(runes[i])
	return ok && !unicode.Is(unicode.Han, next)
}

func equal(a, b []rune) bool {
	for i := range b {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (t *text) hide(from, to int) {
	for i := from; i <= to; i++ {
		if !t.kept[i] {
			t.hidden[i] = true
		}
	}
}

// hideParts hides each piece of value that weighs enough, whatever blanks and signs are in it.
func (t *text) hideParts(value string, enough int) {
	v := folded(value)
	heads, tails := map[string]bool{}, map[string]bool{}
	for i := range v {
		if n := head(v[i:], enough); n > 0 {
			heads[string(v[i:i+n])] = true
		}
		if n := tail(v[:i+1], enough); n > 0 {
			tails[string(v[i+1-n:i+1])] = true
		}
	}
	if len(heads) == 0 {
		return
	}
	for i := range t.letters {
		if n := head(t.letters[i:], enough); n > 0 && heads[string(t.letters[i:i+n])] {
			t.hide(t.at[i], t.at[i+n-1])
		}
		if n := tail(t.letters[:i+1], enough); n > 0 && tails[string(t.letters[i+1-n:i+1])] {
			t.hide(t.at[i+1-n], t.at[i])
		}
	}
}

// head is the length of the shortest beginning of letters that weighs enough, tail that of the shortest end; 0 when
// all of them do not. Two texts that share enough in a row share the heads and tails of its parts, which together
// cover it.
func head(letters []rune, enough int) int {
	w := 0
	for i, r := range letters {
		if w += weight(r); w >= enough {
			return i + 1
		}
	}
	return 0
}

func tail(letters []rune, enough int) int {
	w := 0
	for n := 1; n <= len(letters); n++ {
		if w += weight(letters[len(letters)-n]); w >= enough {
			return n
		}
	}
	return 0
}

// hideDigits hides what may be a telephone number: digits with nothing but a few blanks and dashes between them.
func (t *text) hideDigits() {
	first, last, digits := -1, -1, 0
	end := func() {
		if digits >= minDigits {
			t.hide(first, last)
		}
		first, digits = -1, 0
	}
	gap := 0
	for i, r := range t.runes {
		switch {
		case t.kept[i]:
			end()
		case unicode.IsDigit(r):
			if first < 0 {
				first = i
			}
			last, gap = i, 0
			digits++
		case unicode.Is(unicode.Cf, r): // invisible
		case unicode.IsSpace(r), unicode.Is(unicode.Pd, r), unicode.Is(unicode.Ps, r), unicode.Is(unicode.Pe, r), r == '_', r == '−':
			if gap++; gap > maxGap {
				end()
			}
		default:
			end()
		}
	}
	end()
}

// fold normalises the many forms of a letter or digit; false for blanks and signs, which are left out.
func fold(r rune) (rune, bool) {
	if r >= '！' && r <= '～' { // full-width
		r -= '！' - '!'
	}
	return unicode.ToLower(r), unicode.IsLetter(r) || unicode.IsDigit(r)
}

func folded(s string) []rune {
	var out []rune
	for _, r := range s {
		if f, ok := fold(r); ok {
			out = append(out, f)
		}
	}
	return out
}

func weight(r rune) int {
	if r < unicode.MaxLatin1 {
		return 1
	}
	return 2
}

func weigh(letters []rune) int {
	w := 0
	for _, r := range letters {
		w += weight(r)
	}
	return w
}
