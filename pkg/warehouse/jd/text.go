package jd

import (
	"regexp"
	"strings"
	"unicode"
)

// clean takes out what JD's systems are known to choke on (§5.1.2): emoji are dropped, & becomes its wide twin, and
// line breaks, tabs and other control characters become blanks.
func clean(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '&':
			return '＆'
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return ' '
		case r >= 0x1F000 && r <= 0x1FBFF, // pictures
			r >= 0x2600 && r <= 0x27BF,                                        // symbols and dingbats
			r >= 0xE0000 && r <= 0xE007F,                                      // tags, as in flags
			r >= 0xFE00 && r <= 0xFE0F, r == 0x200D, r == 0x20E3, r == 0xFEFF: // what joins and varies them
			return -1
		}
		return r
	}, text))
}

// A platform hides a receiver in one of three ways:
//   - with stars in place of characters, also wide ones: 王**, 138****8000
//   - as a token between two signs of ~ $ # @: ~Ab12Cd34==~1~, $name$Ab12Cd34==$1$
//   - as a token without signs: 24 or more letters and digits in one run, capitals, small ones and digits among them
var (
	wrapped = regexp.MustCompile(`^(~.*[0-9A-Za-z+/=_-]{8,}.*~|\$.*[0-9A-Za-z+/=_-]{8,}.*\$|#.*[0-9A-Za-z+/=_-]{8,}.*#|@.*[0-9A-Za-z+/=_-]{8,}.*@)`)
	run     = regexp.MustCompile(`[0-9A-Za-z+/_-]{24,}`)
)

// masked tells whether a platform hid text.
func masked(text string) bool {
	text = strings.TrimSpace(text)
	switch {
	case strings.ContainsAny(text, "*＊"):
		return true
	case text != "" && strings.IndexByte("~$#@", text[0]) >= 0 && wrapped.MatchString(text):
		return true
	case len(text) < 24: // too short for a token without signs
		return false
	}
	for _, token := range run.FindAllString(text, -1) {
		if strings.ContainsFunc(token, unicode.IsUpper) && strings.ContainsFunc(token, unicode.IsLower) && strings.ContainsFunc(token, unicode.IsDigit) {
			return true
		}
	}
	return false
}

// ciphered tells whether what should be a telephone number is no such thing. "转" and "ext" before an extension are.
func ciphered(number string) bool {
	letters := 0
	for _, r := range number {
		if r < 0x80 && unicode.IsLetter(r) {
			letters++
		}
	}
	return letters > len("ext")
}
