// Package clean removes noise from the texts of orders and purchase orders that people and their programs type without meaning it: invisible
// and direction marks, unusual blanks, line ends, full-width digits, pictures. It knows no warehouse and no set-up.
//
// # Why
//
// One walk over the message serves every text, so that a field which is added later is never sent with noise in it: a
// field that this package does not name is an identifier, the strictest kind.
//
// What counts as noise depends on what a text is for:
//
//   - A text that people read (names, areas, streets, remarks, invoices) loses its noise wherever it stands.
//   - A number that people type (telephones, post code, e-mail, tax number) also loses its full-width forms.
//   - An identifier (codes of goods, shops and carriers, document numbers, batches) loses it at both ends only. Noise
//     inside is refused, because the warehouse returns the same text and it must match the text in other systems.
//
// Letters, digits and Chinese characters are never lost: a digit that is drawn as a picture (❶, 🅰) becomes what it
// says. A character that was lost before it came here (U+FFFD) is dropped from remarks and refused elsewhere, because
// a parcel must not go to a name or a street that lacks one.
package clean

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// noiseKind is a set of bits.
type noiseKind uint

const (
	invisible noiseKind = 1 << iota
	blanks
	controls
	wide
	pictures
	ampersand
	lost
)

// noiseNames are the names of the kinds, in the order of the bits.
var noiseNames = []struct {
	what   noiseKind
	zh, en string
}{
	{invisible, "不可见字符", "invisible characters"},
	{blanks, "特殊空格", "unusual blanks"},
	{controls, "换行、制表或控制字符", "line ends, tabs or control characters"},
	{wide, "全角字符", "full-width forms"},
	{pictures, "表情或图形符号", "emoji or pictures"},
	{ampersand, "&", "&"},
	{lost, "编码转换中丢失的字符", "characters lost in another encoding"},
}

func (w noiseKind) describe() (zh, en string) {
	var zhs, ens []string
	for _, one := range noiseNames {
		if w&one.what != 0 {
			zhs, ens = append(zhs, one.zh), append(ens, one.en)
		}
	}
	return strings.Join(zhs, "、"), strings.Join(ens, "; ")
}

// Text removes the noise of a text that people read.
func Text(text string) string {
	if plain(text) {
		return text
	}
	text, _ = scrub(text, false)
	return text
}

// plain reports whether a text of any kind is clean as it is. Most are, so this must be cheap.
func plain(text string) bool {
	blank := true // at the beginning
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == ' ':
			if blank {
				return false
			}
			blank = true
			continue
		case c > ' ' && c < 0x7F && c != '&':
		case c < utf8.RuneSelf:
			return false
		default:
			r, size := utf8.DecodeRuneInString(text[i:])
			if (r < 0x4E00 || r > 0x9FFF) && noise(r) != 0 {
				return false
			}
			i += size - 1
		}
		blank = false
	}
	return text == "" || !blank
}

// noise is the kind of noise of r, 0 for none. The ampersand counts, also where it stays.
func noise(r rune) noiseKind {
	switch {
	case r == ' ':
		return 0
	case r == '&':
		return ampersand
	case r == utf8.RuneError:
		return lost
	case unicode.IsControl(r), r == '\u2028', r == '\u2029':
		return controls
	case unicode.Is(unicode.Zs, r), r == '\u2800': // the braille blank
		return blanks
	case unicode.Is(unicode.Cf, r), unicode.Is(unicode.Variation_Selector, r), isFiller(r), unicode.Is(unicode.Noncharacter_Code_Point, r):
		return invisible
	case r >= '０' && r <= '９':
		return wide
	case isPicture(r):
		return pictures
	}
	return 0
}

// isFiller reports letters and marks that draw nothing.
func isFiller(r rune) bool {
	switch r {
	case '\u034F', '\u115F', '\u1160', '\u17B4', '\u17B5', '\u3164', '\uFFA0':
		return true
	}
	return false
}

// isPicture reports emoji and their parts, and letters and digits that are drawn as pictures.
func isPicture(r rune) bool {
	return r >= 0x1F000 && r <= 0x1FBFF || // pictures
		r >= 0x2600 && r <= 0x27BF || // symbols and dingbats
		r >= 0x1D7CE && r <= 0x1D7FF || // mathematical digits
		r == 0x20E3 || // a key's cap
		r == 0x231A || r == 0x231B || r >= 0x23E9 && r <= 0x23FA || // watches and buttons
		r == 0x2B1B || r == 0x2B1C || r == 0x2B50 || r == 0x2B55
}

// pictureText is the digits or letters that a picture shows, "" for none.
func pictureText(r rune) string {
	digits := func(n rune) string {
		if n == 10 {
			return "10"
		}
		return string('0' + n)
	}
	switch {
	case r >= 0x2776 && r <= 0x2793: // three rounds of 1 to 10
		return digits((r-0x2776)%10 + 1)
	case r >= 0x1D7CE && r <= 0x1D7FF:
		return digits((r - 0x1D7CE) % 10)
	case r == 0x1F51F:
		return digits(10)
	case r >= 0x1F130 && r <= 0x1F149:
		return string('A' + r - 0x1F130)
	case r >= 0x1F150 && r <= 0x1F169:
		return string('A' + r - 0x1F150)
	case r >= 0x1F170 && r <= 0x1F189:
		return string('A' + r - 0x1F170)
	case r == 0x1F18E:
		return "AB"
	}
	return ""
}

// scrub removes all noise from a text, and returns what it was. In a number the full-width forms of all keyboard
// characters are noise too, and an ampersand is not.
func scrub(text string, number bool) (string, noiseKind) {
	var b strings.Builder
	b.Grow(len(text))
	var found noiseKind
	blank := true
	write := func(s string) {
		for i := range len(s) {
			if s[i] != ' ' {
				blank = false
			} else if blank {
				continue
			} else {
				blank = true
			}
			b.WriteByte(s[i])
		}
	}
	for _, r := range text {
		kind := noise(r)
		if number {
			switch {
			case r >= '！' && r <= '～':
				found |= wide
				write(string(r - '！' + '!'))
				continue
			case r >= '\u2010' && r <= '\u2015', r == '\u2212', r == '﹣': // dashes
				found |= wide
				write("-")
				continue
			case kind == ampersand:
				kind = 0
			}
		}
		found |= kind
		switch kind {
		case 0:
			write(string(r))
		case ampersand:
			write("＆")
		case wide:
			write(string(r - '０' + '0'))
		case blanks:
			write(" ")
		case controls:
			if unicode.IsSpace(r) {
				write(" ")
			}
		case pictures:
			write(pictureText(r))
		}
	}
	return strings.TrimRight(b.String(), " "), found
}

// identifier removes noise from both ends of an identifier and returns what it was. inside is a character in between
// that cannot be sent, 0 for none.
func identifier(text string) (trimmed string, found noiseKind, inside rune) {
	trimmed = strings.TrimFunc(text, func(r rune) bool {
		kind := noise(r)
		if kind&(invisible|blanks|controls) == 0 && r != ' ' {
			return false
		}
		found |= kind
		if r == ' ' {
			found |= blanks
		}
		return true
	})
	for _, r := range trimmed {
		if kind := noise(r); kind&^(ampersand|wide) != 0 {
			return trimmed, found, r
		}
	}
	return trimmed, found, 0
}
