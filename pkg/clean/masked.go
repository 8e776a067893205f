package clean

import (
	"regexp"
	"strings"
	"unicode"
)

// A platform masks a receiver in one of three ways:
//   - with stars in place of characters, also wide ones: 王**, 138****8000
//   - as a token between two signs of ~ $ # @: ~Ab12Cd34==~1~, $name$Ab12Cd34==$1$
//   - as a token without signs: 24 or more letters and digits in one run, capitals, small ones and digits among them
var (
	wrapped = regexp.MustCompile(`^(~.*[0-9A-Za-z+/=_-]{8,}.*~|\$.*[0-9A-Za-z+/=_-]{8,}.*\$|#.*[0-9A-Za-z+/=_-]{8,}.*#|@.*[0-9A-Za-z+/=_-]{8,}.*@)`)
	run     = regexp.MustCompile(`[0-9A-Za-z+/_-]{24,}`)
)

// Masked reports whether a platform masked text.
func Masked(text string) bool {
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

// Ciphered reports whether what should be a telephone number is a platform's token. "转" and "ext" before an extension
// do not count, nor do words such as "null".
func Ciphered(number string) bool {
	var capitals, small, digits int
	for _, r := range number {
		switch {
		case r >= 'A' && r <= 'Z':
			capitals++
		case r >= 'a' && r <= 'z':
			small++
		case r >= '0' && r <= '9':
			digits++
		}
	}
	return capitals+small > len("ext") && (digits > 0 || capitals > 0 && small > 0 && len(number) >= 8)
}
