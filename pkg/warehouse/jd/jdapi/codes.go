package jdapi

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"stockbridge/pkg/personal"
)

// Class says what the caller can do about a refusal.
type Class int

const (
	// ClassBusiness: the service itself refuses, in a sentence. Its codes are not published, so every code that is not the
	// gateway's belongs here.
	ClassBusiness Class = iota
	// ClassTransient: JD failed. The outcome of a write is unknown.
	ClassTransient
	// ClassQuota: too many calls, perhaps until the next day.
	ClassQuota
	// ClassPermission: the application or the merchant may not do this.
	ClassPermission
	// ClassToken: the merchant's token is missing, wrong or expired.
	ClassToken
	// ClassClock: our time is too far from JD's.
	ClassClock
	// ClassConfig: the application's key or secret is wrong.
	ClassConfig
	// ClassData: a parameter is wrong.
	ClassData
	// ClassProgram: the request does not have the form that JD wants.
	ClassProgram
)

// String is the class's name in metrics and traces.
func (c Class) String() string {
	switch c {
	case ClassBusiness:
		return "business"
	case ClassTransient:
		return "transient"
	case ClassQuota:
		return "quota"
	case ClassPermission:
		return "permission"
	case ClassToken:
		return "token"
	case ClassClock:
		return "clock"
	case ClassConfig:
		return "config"
	case ClassData:
		return "data"
	case ClassProgram:
		return "program"
	default:
		return "unknown"
	}
}

// codeToken refuses a token, wrong or expired.
const codeToken = "19"

const (
	// maxErrorText is how many characters of JD's text are kept.
	maxErrorText = 300
	// maxRaw is how many bytes of it are kept for matching.
	maxRaw = 4 << 10
)

// Error is a refusal by JD (docs/jd-api.md, Error codes).
type Error struct {
	// Code is JD's code as text. The texts of a code vary.
	Code string
	// Text is JD's text, the Chinese one if there is one. Personal data in it is masked; Matches reads the original.
	Text  string
	Class Class
	// Before: the code proves that JD refused before it processed anything. Only then is a write certainly undone.
	Before bool

	// raw is Text as JD wrote it.
	raw string
}

// Matches reports whether JD's original text matches. Use it to distinguish texts, because parts of Text may be masked.
func (e *Error) Matches(sentence *regexp.Regexp) bool { return sentence.MatchString(e.raw) }

func (e *Error) Error() string { return "code " + e.Code + ": " + e.Text }

type kind struct {
	class  Class
	before bool
}

// codes is the table of docs/jd-api.md, Error codes. Code 17 proves nothing: it says that something exists already, which
// may be the very document.
var codes = map[string]kind{
	"1":    {ClassTransient, false},
	"2":    {ClassQuota, false},
	"3":    {ClassPermission, true},
	"4":    {ClassProgram, true},
	"5":    {ClassProgram, true},
	"6":    {ClassProgram, true},
	"7":    {ClassProgram, true},
	"8":    {ClassClock, true},
	"9":    {ClassProgram, true},
	"10":   {ClassProgram, true},
	"11":   {ClassProgram, true},
	"12":   {ClassConfig, true},
	"13":   {ClassProgram, true},
	"14":   {ClassProgram, true},
	"15":   {ClassProgram, true},
	"16":   {ClassProgram, true},
	"17":   {ClassProgram, false},
	"18":   {ClassToken, true},
	"19":   {ClassToken, true},
	"20":   {ClassConfig, true},
	"21":   {ClassConfig, true},
	"22":   {ClassToken, true},
	"23":   {ClassPermission, true},
	"24":   {ClassPermission, true},
	"25":   {ClassPermission, true},
	"26":   {ClassProgram, true},
	"27":   {ClassProgram, true},
	"43":   {ClassTransient, false},
	"50":   {ClassProgram, true},
	"60":   {ClassData, true},
	"61":   {ClassData, true},
	"62":   {ClassData, true},
	"63":   {ClassData, true},
	"64":   {ClassPermission, true},
	"65":   {ClassTransient, false},
	"66":   {ClassTransient, false},
	"67":   {ClassTransient, false},
	"68":   {ClassData, false},
	"69":   {ClassTransient, false},
	"70":   {ClassBusiness, false},
	"71":   {ClassPermission, false},
	"72":   {ClassPermission, true},
	"73":   {ClassPermission, true},
	"1100": {ClassData, true},
}

// refusal makes an Error of JD's answer.
func refusal(code, zh, en string) *Error {
	text := zh
	if text == "" {
		text = en
	}
	known := codes[code] // the zero value is ClassBusiness, which proves nothing
	return &Error{Code: code, Text: text, Class: known.class, Before: known.before}
}

// sanitize removes what must not be shown. people is the personal data that was sent.
func (e *Error) sanitize(people personal.Data, secrets ...Secret) {
	e.raw = e.Text[:min(len(e.Text), maxRaw)]
	if e.Code = shorten(maskSecrets(e.Code, secrets)); !shortNumber.MatchString(e.Code) {
		e.Code = people.Hide(e.Code)
	}
	e.Text = shorten(people.Hide(maskSecrets(e.Text, secrets)))
}

// shortNumber matches a code that cannot be a telephone number.
var shortNumber = regexp.MustCompile(`^-?\d{1,8}$`)

// maskSecrets masks secrets, including their percent-encoded form.
func maskSecrets(text string, secrets []Secret) string {
	for _, s := range secrets {
		for _, shape := range []string{s.Reveal(), url.QueryEscape(s.Reveal())} {
			if shape != "" {
				text = strings.ReplaceAll(text, shape, masked)
			}
		}
	}
	return text
}

// shorten limits remote text and removes control characters.
func shorten(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if runes := []rune(text); len(runes) > maxErrorText {
		text = string(runes[:maxErrorText]) + "…"
	}
	return strings.TrimSpace(text)
}
