package jdapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// openEnvelope takes the answer to method out of its envelope. Its error is an *Error, or wraps ErrLost if the body is
// not an answer of JD's.
func openEnvelope(method string, body []byte) (json.RawMessage, error) {
	var envelope map[string]json.RawMessage
	if err := json.Unmarshal(body, &envelope); err != nil {
		// Without the decoder's text, which may quote the body, and so personal data.
		return nil, fmt.Errorf("%w: %d bytes that are no JSON object", ErrLost, len(body))
	}
	if said, ok := envelope["error_response"]; ok && string(said) != "null" {
		var no struct {
			Code Text `json:"code"`
			ZH   Text `json:"zh_desc"`
			EN   Text `json:"en_desc"`
		}
		if err := json.Unmarshal(said, &no); err != nil || no.Code == "" && no.ZH == "" && no.EN == "" {
			return nil, fmt.Errorf("%w: an error_response that says nothing", ErrLost)
		}
		return nil, refusal(string(no.Code), string(no.ZH), string(no.EN))
	}
	inner, err := unwrap(method, envelope)
	if err != nil {
		return nil, err
	}
	var wrapper *struct {
		Code Text `json:"code"`
	}
	if err := json.Unmarshal(inner, &wrapper); err != nil || wrapper == nil {
		return nil, fmt.Errorf("%w: the envelope holds no object", ErrLost)
	}
	// "0" says only that the call reached the service. No other code is documented, so it proves nothing.
	if wrapper.Code != "" && wrapper.Code != "0" {
		if !shortNumber.MatchString(string(wrapper.Code)) { // it may be a sentence that quotes anything
			return nil, fmt.Errorf("%w: the envelope has a code that is no number", ErrLost)
		}
		return nil, fmt.Errorf("%w: the envelope has code %s", ErrLost, wrapper.Code)
	}
	return inner, nil
}

// unwrap finds the envelope's one key: the method's name with JD's misspelling, or any key with this ending
// (docs/jd-api.md, Envelopes), unless it names another method: the answer to another query proves nothing about this one.
func unwrap(method string, envelope map[string]json.RawMessage) (json.RawMessage, error) {
	name := strings.ReplaceAll(method, ".", "_")
	for _, ending := range []string{"_responce", "_response"} {
		if inner, ok := envelope[name+ending]; ok {
			return inner, nil
		}
	}
	var found []json.RawMessage
	for key, inner := range envelope {
		answers, ok := strings.CutSuffix(key, "_responce")
		if !ok {
			answers, ok = strings.CutSuffix(key, "_response")
		}
		switch {
		case !ok:
		case namesAnother(name, answers):
			return nil, fmt.Errorf("%w: the answer to another method", ErrLost)
		default:
			found = append(found, inner)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%w: no envelope of this method", ErrLost)
	}
	return found[0], nil
}

// namesAnother reports whether answers, the name on an envelope, is a method's but not name's. JD's capitals may differ.
func namesAnother(name, answers string) bool {
	const prefix = "jingdong_"
	name, answers = strings.TrimPrefix(strings.ToLower(name), prefix), strings.ToLower(answers)
	bare, full := strings.CutPrefix(answers, prefix)
	return bare != name && (full || strings.HasPrefix(bare, "eclp_"))
}

// Text is a scalar in any of JD's types: string, number, bool, null, or a list of one of these. Null, a missing field and
// an empty list are all "".
type Text string

var errScalar = errors.New("want a scalar")

// UnmarshalJSON reads any scalar.
func (t *Text) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		switch len(list) {
		case 0:
			*t = ""
			return nil
		case 1:
			b = bytes.TrimSpace(list[0])
		default:
			return errScalar
		}
	}
	switch {
	case len(b) == 0 || b[0] == '[' || b[0] == '{':
		return errScalar
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = Text(strings.TrimSpace(s))
	case bytes.Equal(b, []byte("null")):
		*t = ""
	default:
		*t = Text(b)
	}
	return nil
}

// Int returns a whole number; false if the text is none. JD writes 2, "2" and 2.00.
func (t Text) Int() (int64, bool) {
	whole, fraction, _ := strings.Cut(string(t), ".")
	if strings.Trim(fraction, "0") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	return n, err == nil
}

// maxNumber is the longest document number that is accepted, in bytes. JD's have 16 to 20 (ESL00000025552990157).
const maxNumber = 64

// Number reports whether the text can be JD's number of a document: letters, at least one digit, - and _. Such a number
// is stored, published and put into comma lists, so nothing else is accepted.
func (t Text) Number() bool {
	digit := false
	for i := range len(t) {
		switch c := t[i]; {
		case '0' <= c && c <= '9':
			digit = true
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', c == '-', c == '_':
		default:
			return false
		}
	}
	return digit && len(t) <= maxNumber
}

// Decimal returns a decimal number as plain digits, "" if the text is none.
func (t Text) Decimal() string {
	text := string(t)
	if strings.ContainsAny(text, "eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return ""
		}
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	digits := strings.TrimPrefix(text, "-")
	whole, fraction, dot := strings.Cut(digits, ".")
	if !isDigits(whole) || dot && !isDigits(fraction) {
		return ""
	}
	return text
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Time returns one of JD's times; zero if the text is none. JD writes Beijing time, and milliseconds in places.
func (t Text) Time() time.Time {
	text := string(t)
	if at, err := time.ParseInLocation(time.DateTime, text, beijing); err == nil {
		return at
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && len(text) == len("1659322812128") {
		return time.UnixMilli(ms).In(beijing)
	}
	return time.Time{}
}

// List returns the elements of a comma list, without blanks, empty elements and repetitions.
func (t Text) List() []string {
	var list []string
	seen := map[string]bool{}
	for _, element := range strings.Split(string(t), ",") {
		if element = strings.TrimSpace(element); element != "" && !seen[element] {
			seen[element] = true
			list = append(list, element)
		}
	}
	return list
}

// List is a list in any of JD's forms: missing, null and [] are all empty, and an object is a list of one.
type List[T any] []T

// UnmarshalJSON reads a list, an object or nothing.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	switch {
	case bytes.Equal(b, []byte("null")), bytes.Equal(b, []byte(`""`)):
		*l = nil
		return nil
	case len(b) > 0 && b[0] == '{':
		one := make([]T, 1)
		if err := json.Unmarshal(b, &one[0]); err != nil {
			return err
		}
		*l = one
		return nil
	}
	var elements []*T
	if err := json.Unmarshal(b, &elements); err != nil {
		return err
	}
	list := make([]T, 0, len(elements))
	for _, e := range elements {
		if e != nil {
			list = append(list, *e)
		}
	}
	*l = list
	return nil
}
