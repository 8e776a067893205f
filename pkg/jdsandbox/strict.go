package jdsandbox

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Duration is a time.Duration that reads and writes itself as text: "150ms", "2h".
type Duration time.Duration

// MarshalText writes "1m30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New(`must be a duration such as "150ms" or "2h"`)
	}
	*d = Duration(v)
	return nil
}

// Code is a code of JD's. In settings it may be written as a number too, because YAML reads 10018 as one.
type Code string

// UnmarshalJSON accepts text or a number.
func (c *Code) UnmarshalJSON(raw []byte) error {
	var n json.Number
	if err := json.Unmarshal(raw, &n); err == nil {
		*c = Code(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return errors.New("must be a code such as 10018")
	}
	*c = Code(s)
	return nil
}

// fill decodes a JSON document onto *into and reports every fault at once, each with its path. Keys that are absent or
// null leave the present value, so it serves whole settings and partial updates alike: objects and maps are merged, lists
// are replaced.
//
// # Why
//
// json.Decoder stops at the first unknown key, but the reader of a faulty settings file wants to see all of them.
func fill(raw []byte, into any) error {
	var faults []error
	fillValue("", raw, reflect.ValueOf(into).Elem(), &faults)
	return errors.Join(faults...)
}

func fillValue(path string, raw json.RawMessage, v reflect.Value, faults *[]error) {
	if strings.TrimSpace(string(raw)) == "null" {
		return
	}
	_, byJSON := v.Addr().Interface().(json.Unmarshaler)
	_, byText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case byJSON || byText:
		fillScalar(path, raw, v, faults)
	case v.Kind() == reflect.Struct:
		fillStruct(path, raw, v, faults)
	case v.Kind() == reflect.Slice:
		fillList(path, raw, v, faults)
	case v.Kind() == reflect.Map:
		fillMap(path, raw, v, faults)
	case v.Kind() == reflect.Pointer:
		value := reflect.New(v.Type().Elem())
		fillValue(path, raw, value.Elem(), faults)
		v.Set(value)
	default:
		fillScalar(path, raw, v, faults)
	}
}

func blame(faults *[]error, path, what string) {
	*faults = append(*faults, fmt.Errorf("%s: %s", orTop(path), what))
}

// fillStruct leaves absent fields unchanged, and refuses keys that are no field.
func fillStruct(path string, raw json.RawMessage, v reflect.Value, faults *[]error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		blame(faults, path, "must be an object")
		return
	}
	fields := map[string]reflect.Value{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && name != "" && name != "-" {
			fields[name] = v.FieldByIndex(f.Index)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if f, known := fields[name]; known {
			fillValue(join(path, name), members[name], f, faults)
		} else {
			blame(faults, join(path, name), "unknown key")
		}
	}
}

// fillList replaces the whole list.
func fillList(path string, raw json.RawMessage, v reflect.Value, faults *[]error) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		blame(faults, path, "must be a list")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		fillValue(fmt.Sprintf("%s[%d]", path, i), item, list.Index(i), faults)
	}
	v.Set(list)
}

// fillMap sets the given keys and keeps the others.
func fillMap(path string, raw json.RawMessage, v reflect.Value, faults *[]error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		blame(faults, path, "must be an object")
		return
	}
	merged := reflect.MakeMap(v.Type())
	for _, key := range v.MapKeys() {
		merged.SetMapIndex(key, v.MapIndex(key))
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := reflect.New(v.Type().Elem()).Elem()
		fillValue(join(path, name), members[name], value, faults)
		merged.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), value)
	}
	v.Set(merged)
}

// fillScalar reads one value, and says what it should be if it is invalid.
func fillScalar(path string, raw json.RawMessage, v reflect.Value, faults *[]error) {
	err := json.Unmarshal(raw, v.Addr().Interface())
	var mismatch *json.UnmarshalTypeError
	switch {
	case err == nil:
	case v.Type() == reflect.TypeFor[Duration]():
		blame(faults, path, `must be a duration such as "150ms" or "2h"`)
	case v.Type() == reflect.TypeFor[time.Time]():
		blame(faults, path, `must be a time such as "2026-01-31T08:00:00+08:00"`)
	case !errors.As(err, &mismatch):
		blame(faults, path, err.Error())
	case v.Kind() == reflect.String:
		blame(faults, path, "must be text (in quotes when it looks like a number)")
	case v.Kind() == reflect.Bool:
		blame(faults, path, "must be true or false")
	case v.Kind() == reflect.Int, v.Kind() == reflect.Uint64:
		blame(faults, path, "must be a whole number")
	default:
		blame(faults, path, "must be a number")
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func orTop(path string) string {
	if path == "" {
		return "document"
	}
	return path
}
