package jdapi

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"stockbridge/pkg/personal"
)

// Class is what kind of refusal a code is, by what the caller can do.
type Class int

const (
	// ClassBusiness: the service itself says no, in a sentence. Its codes are published nowhere, so this is every code
	// that the gateway does not have.
	ClassBusiness Class = iota
	// ClassTransient: JD failed. Of a write the outcome is unknown.
	ClassTransient
	// ClassQuota: too many calls, perhaps until tomorrow.
	ClassQuota
	// ClassPermission: the application or the merchant may not do this.
	ClassPermission
	// ClassToken: the merchant's token is missing, wrong or old.
	ClassToken
	// ClassClock: our time is too far from JD's.
	ClassClock
	// ClassConfig: the application's key or secret is wrong.
	ClassConfig
	// ClassData: a parameter is wrong.
	ClassData
	// ClassProgram: the request is not made as JD wants it.
	ClassProgram
)

// String is the class in a word, as metrics and traces tell it.
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

// codeToken is the refusal of a token, wrong or expired.
const codeToken = "19"

const (
	// maxErrorText is the most characters kept of JD's words.
	maxErrorText = 300
	// maxSaid is how much of them is read to tell sentences apart, in bytes.
	maxSaid = 4 << 10
)

// Error is JD's no (docs/jd-api.md, Error codes).
type Error struct {
	// Code is JD's, as text. Texts vary; the code does not.
	Code string
	// Text is JD's, Chinese if there is any. What it quotes of people's data is masked; Says reads what JD wrote.
	Text  string
	Class Class
	// Before: the code proves that JD refused before it processed anything (docs/jd-api.md, Limits and idempotency). Only this makes a write undone.
	Before bool

	// said is Text as JD wrote it.
	said string
}

// Says tells whether JD's words match. Sentences are told apart by this, because of Text parts may be masked.
func (e *Error) Says(sentence *regexp.Regexp) bool { return sentence.MatchString(e.said) }

func (e *Error) Error() string { return "code " + e.Code + ": " + e.Text }

type kind struct {
	class  Class
	before bool
}

// codes is docs/jd-api.md, Error codes, with what docs/jd-api.md, Limits and idempotency says of each. Of 17 it is not believed: it says that something is there already, which
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

// refusal makes an Error of what JD said.
func refusal(code, zh, en string) *Error {
	text := zh
	if text == "" {
		text = en
	}
	known := codes[code] // the zero kind is ClassBusiness, which proves nothing
	return &Error{Code: code, Text: text, Class: known.class, Before: known.before}
}

// tidy makes the error fit to be shown. people are those whose data was sent.
func (e *Error) tidy(people personal.Data, secrets ...Secret) {
	e.said = e.Text[:min(len(e.Text), maxSaid)]
	if e.Code = short(hide(e.Code, secrets)); !shortNumber.MatchString(e.Code) {
		e.Code = people.Hide(e.Code)
	}
	e.Text = short(people.Hide(hide(e.Text, secrets)))
}

// shortNumber is a code that is nobody's telephone number, however many digits it has.
var shortNumber = regexp.MustCompile(`^-?\d{1,8}$`)

// hide masks secrets, also as they stand in an address.
func hide(text string, secrets []Secret) string {
	for _, s := range secrets {
		for _, shape := range []string{s.Reveal(), url.QueryEscape(s.Reveal())} {
			if shape != "" {
				text = strings.ReplaceAll(text, shape, masked)
			}
		}
	}
	return text
}

// short makes foreign text fit to be shown.
func short(text string) string {
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
