package jdsandbox

import "encoding/json"

// object is a JSON object of an answer.
type object = map[string]any

// number is a scalar that JD documents as a number, digits one that it documents as a text of digits. Their type on the
// wire is a knob, because JD's own SDK generations disagree.
type (
	number string
	digits string
)

// format turns a result into what is sent.
func (k *Knobs) format(v any) any {
	switch v := v.(type) {
	case object:
		formatted := make(object, len(v)+1)
		for name, member := range v {
			formatted[name] = k.format(member)
		}
		if k.ExtraKeys {
			formatted["sandboxExtra"] = "?"
		}
		return formatted
	case []object:
		list := make([]any, len(v))
		for i, member := range v {
			list[i] = k.format(member)
		}
		return list
	case []any:
		list := make([]any, len(v))
		for i, member := range v {
			list[i] = k.format(member)
		}
		return list
	case number:
		if k.Numbers == "text" || !isNumber(string(v)) {
			return k.scalar(string(v))
		}
		return k.scalar(json.Number(v))
	case digits:
		if k.Numbers == "numbers" && isNumber(string(v)) {
			return k.scalar(json.Number(v))
		}
		return k.scalar(string(v))
	case string, bool:
		return k.scalar(v)
	default:
		return v
	}
}

func (k *Knobs) scalar(v any) any {
	if k.ScalarsAsArrays {
		return []any{v}
	}
	return v
}

// isNumber excludes codes of a setting that are no JSON numbers.
func isNumber(s string) bool {
	return s != "" && (s[0] >= '0' && s[0] <= '9' || s[0] == '-') && json.Valid([]byte(s))
}
