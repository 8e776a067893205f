package clean

import (
	"strings"
	"unicode/utf8"
)

// Callable reports whether somebody may answer under what stands in text. It refuses only what is certainly no
// number, such as "无", "0", "1380000" and one repeated digit: unknown forms may still be somebody's.
//
// It accepts mainland mobiles and land lines with and without their area code, extensions behind a dash or 转, Hong
// Kong, Macau and Taiwan, numbers abroad, 400 and 800, and 95xxx. One number among several in a text is enough.
func Callable(text string) bool {
	for {
		end := strings.IndexFunc(text, func(r rune) bool { return strings.ContainsRune("/／\\、,，;；|或", r) })
		if end < 0 {
			return callableOne(text)
		}
		if callableOne(text[:end]) {
			return true
		}
		_, size := utf8.DecodeRuneInString(text[end:])
		text = text[end+size:]
	}
}

// maxExtension is the most digits of an extension, and of what a platform appends to a number of its own.
const maxExtension = 6

// callableOne decides for a text without signs between numbers. Its groups of digits are one number, of which the
// last may be an extension; or each is one.
func callableOne(text string) bool {
	var digits [32]byte
	var ends [32]int // where the groups end
	n, groups := 0, 0
	for i := range len(text) {
		if c := text[i]; c < '0' || c > '9' {
			continue
		}
		if n == len(digits) {
			return false
		}
		digits[n] = text[i]
		n++
		if i+1 == len(text) || text[i+1] < '0' || text[i+1] > '9' {
			ends[groups] = n
			groups++
		}
	}
	plus := strings.HasPrefix(strings.TrimLeft(text, " ("), "+")
	begin := 0
	for g := range groups {
		end := ends[g]
		if n-end <= maxExtension && dialable(string(digits[:end]), plus) || end-begin >= 7 && dialable(string(digits[begin:end]), false) {
			return true
		}
		begin = end
	}
	return false
}

// dialable reports whether digits can be dialled. abroad says that a country's code comes first.
func dialable(digits string, abroad bool) bool {
	if rest, ok := strings.CutPrefix(digits, "00"); ok {
		digits, abroad = rest, true
	}
	if digits == "" || strings.Trim(digits, digits[:1]) == "" {
		return false
	}
	if home, ok := strings.CutPrefix(digits, "86"); ok && (abroad || len(digits) >= 12) {
		return mainland(home) || len(home) >= 9 && len(home) <= 11 && home[0] != '0' && home[0] != '1' && mainland("0"+home)
	}
	if abroad {
		return len(digits) >= 8 && len(digits) <= 15
	}
	return mainland(digits) || elsewhere(digits)
}

func mainland(d string) bool {
	n := len(d)
	switch {
	case n < 5:
		return false
	case d[0] == '1': // mobiles; nobody is reached by 110 or 10086
		return n == 11 && d[1] >= '3'
	case d[0] == '0': // with the area code, 3 or 4 digits; Taiwan's 09… and 02… too
		return n >= 9 && n <= 12 && d[1] != '0'
	case d[:2] == "95" || d[:2] == "96":
		return n <= 15
	}
	return n == 7 || n == 8 || n == 10 && (d[:3] == "400" || d[:3] == "800") // without the area code; Hong Kong and Macau
}

// elsewhere is a number abroad whose country code has no sign before it.
func elsewhere(d string) bool { return len(d) >= 9 && len(d) <= 15 && d[0] != '0' && d[0] != '1' }
