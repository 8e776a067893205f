package bus

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// expected says in both languages what a field, or an element of its list, must hold.
func expected(fd protoreflect.FieldDescriptor, element bool) (zh, en string) {
	if fd.IsList() && !element {
		return "应为列表 [ ]", "a list in [ ] is wanted"
	}
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		return `应为带引号的文本，如 "SO-1001"`, `a text in quotes is wanted, such as "SO-1001"`
	case protoreflect.BoolKind:
		return "应为 true 或 false", "true or false is wanted"
	case protoreflect.EnumKind:
		names := strings.Join(namesOf(fd.Enum()), "、")
		return "应为以下之一：" + names, "one of these is wanted: " + strings.ReplaceAll(names, "、", ", ")
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return "应为数字，如 0.5", "a number is wanted, such as 0.5"
	case protoreflect.MessageKind, protoreflect.GroupKind:
		switch fd.Message().FullName() {
		case timestampName:
			return `应为带时区的 RFC 3339 时间，如 "2026-03-05T09:31:00+08:00"`,
				`a time as RFC 3339 with its zone is wanted, such as "2026-03-05T09:31:00+08:00"`
		case "google.protobuf.Duration":
			return `应为时长，如 "30s"`, `a duration is wanted, such as "30s"`
		}
		return "应为对象 { }", "an object in { } is wanted"
	default:
		return "应为整数，如 2", "a whole number is wanted, such as 2"
	}
}

const timestampName = "google.protobuf.Timestamp"

// namesOf are the values of an enum except the unspecified one.
func namesOf(enum protoreflect.EnumDescriptor) (names []string) {
	for i := range enum.Values().Len() {
		if v := enum.Values().Get(i); v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	return names
}

// fieldAt finds the field at a path made by jsonPath; nil when there is none. element says that the path ends in an
// element of a list.
func fieldAt(kind protoreflect.MessageDescriptor, path string) (fd protoreflect.FieldDescriptor, element bool) {
	for i, name := range strings.Split(path, ".") {
		if i > 0 {
			if kind = fd.Message(); kind == nil {
				return nil, false
			}
		}
		name, _, element = strings.Cut(name, "[")
		if fd = fieldNamed(kind, name); fd == nil {
			return nil, false
		}
	}
	return fd, element
}

func fieldNamed(kind protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := kind.Fields().ByJSONName(name); fd != nil {
		return fd
	}
	return kind.Fields().ByTextName(name)
}

// salvage reads into m the top-level fields of a JSON object that can be read one by one: strings, numbers and times,
// up to where the text is no longer JSON. A number where a string belongs is read as its digits. A field that is given
// twice is left out. So the publisher of an unreadable message learns which one it was.
func salvage(body []byte, m proto.Message) {
	proto.Reset(m)
	dec := json.NewDecoder(bytes.NewReader(body))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return
	}
	into, seen := m.ProtoReflect(), map[protoreflect.FieldNumber]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return
		}
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			return
		}
		name, _ := token.(string)
		fd := fieldNamed(into.Descriptor(), name)
		if fd == nil || fd.IsList() || fd.Message() != nil && fd.Message().FullName() != timestampName {
			continue
		}
		if seen[fd.Number()] {
			into.Clear(fd)
			continue
		}
		seen[fd.Number()] = true
		if fd.Kind() == protoreflect.StringKind && len(bytes.Trim(raw, "0123456789")) == 0 {
			raw = strconv.AppendQuote(nil, string(raw))
		}
		key, _ := json.Marshal(fd.JSONName())
		one := into.New().Interface()
		if protojson.Unmarshal(fmt.Appendf(nil, "{%s:%s}", key, raw), one) == nil {
			proto.Merge(m, one)
		}
	}
}

// repairSurrogates replaces each half of a surrogate pair in JSON (\ud83d alone) by U+FFFD: programs cut texts in the
// middle of an emoji, and the rest of the message is fine. nil when there is none.
func repairSurrogates(body []byte) (repaired []byte) {
	for i := 0; i < len(body)-1; i++ {
		if body[i] != '\\' {
			continue
		}
		unit, ok := escapedUnit(body[i:])
		if !ok || !utf16.IsSurrogate(unit) {
			i++ // an escaped character, also another backslash
			continue
		}
		if low, ok := escapedUnit(body[i+6:]); ok && utf16.DecodeRune(unit, low) != '\uFFFD' {
			i += 11
			continue
		}
		if repaired == nil {
			repaired = bytes.Clone(body)
		}
		copy(repaired[i+2:], "fffd")
		i += 5
	}
	return repaired
}

// escapedUnit is the UTF-16 unit that text starts with as \uXXXX.
func escapedUnit(text []byte) (rune, bool) {
	var unit [2]byte
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	if _, err := hex.Decode(unit[:], text[2:6]); err != nil {
		return 0, false
	}
	return rune(unit[0])<<8 | rune(unit[1]), true
}

// enums caches, per message, the names of its enum fields.
var enums sync.Map //nolint:gochecknoglobals // a cache, of protoreflect.FullName to []enumName

// enumName is a name of enum fields, in quotes, and the values that they may have in text.
type enumName struct {
	quoted []byte
	values []protoreflect.EnumValueDescriptors
}

// onlyKnown reports whether the name is followed by one of its values wherever it stands in the JSON body, and so needs no
// further look. Where it is not, it may be a text, or a value without quotes.
func (n enumName) onlyKnown(body []byte) bool {
	for {
		at := bytes.Index(body, n.quoted)
		if at < 0 {
			return true
		}
		body = bytes.TrimLeft(body[at+len(n.quoted):], " \t\r\n")
		value, colon := bytes.CutPrefix(body, []byte(":"))
		value, quote := bytes.CutPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte(`"`))
		word, _, ended := bytes.Cut(value, []byte(`"`))
		if !colon || !quote || !ended {
			return false
		}
		for _, values := range n.values {
			if values.ByName(protoreflect.Name(word)) == nil {
				return false
			}
		}
		body = value
	}
}

// unknownEnumValue finds a field whose value is not one of its enum's names: its path and the field; nil for none. The
// decoder ignores such values like unknown fields, but a misspelt kind of invoice is a mistake.
func unknownEnumValue(body []byte, kind protoreflect.MessageDescriptor) (path string, fd protoreflect.FieldDescriptor) {
	names, known := enums.Load(kind.FullName())
	if !known {
		all := map[string]*enumName{}
		enumNames(kind, all, map[protoreflect.FullName]bool{})
		list := make([]enumName, 0, len(all))
		for _, name := range all {
			list = append(list, *name)
		}
		names, _ = enums.LoadOrStore(kind.FullName(), list)
	}
	escaped := bytes.Contains(body, []byte(`\u`)) // another name may be written so
	for _, name := range names.([]enumName) {
		if escaped && bytes.Contains(body, name.quoted) || !name.onlyKnown(body) {
			return parsedUnknown(body, kind)
		}
	}
	return "", nil
}

// parsedUnknown is unknownEnumValue by reading all of the body.
func parsedUnknown(body []byte, kind protoreflect.MessageDescriptor) (path string, fd protoreflect.FieldDescriptor) {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return "", nil
	}
	return findUnknown(v, kind, "")
}

// enumNames adds the names of the enum fields of kind, and of the messages in it, to all.
func enumNames(kind protoreflect.MessageDescriptor, all map[string]*enumName, seen map[protoreflect.FullName]bool) {
	if seen[kind.FullName()] {
		return
	}
	seen[kind.FullName()] = true
	for i := range kind.Fields().Len() {
		switch fd := kind.Fields().Get(i); {
		case fd.Enum() != nil:
			for _, name := range slices.Compact([]string{fd.JSONName(), fd.TextName()}) {
				if all[name] == nil {
					all[name] = &enumName{quoted: []byte(`"` + name + `"`)}
				}
				all[name].values = append(all[name].values, fd.Enum().Values())
			}
		case fd.Message() != nil:
			enumNames(fd.Message(), all, seen)
		}
	}
}

func findUnknown(v any, kind protoreflect.MessageDescriptor, path string) (string, protoreflect.FieldDescriptor) {
	object, _ := v.(map[string]any)
	for name, v := range object {
		fd := fieldNamed(kind, name)
		if fd == nil || fd.IsMap() || fd.Enum() == nil && fd.Message() == nil {
			continue
		}
		list, at := []any{v}, func(int) string { return path + name }
		if fd.IsList() {
			list, _ = v.([]any)
			at = func(i int) string { return path + name + "[" + strconv.Itoa(i) + "]" }
		}
		for i, v := range list {
			if fd.Enum() != nil {
				if word, is := v.(string); is && fd.Enum().Values().ByName(protoreflect.Name(word)) == nil {
					return at(i), fd
				}
			} else if where, found := findUnknown(v, fd.Message(), at(i)+"."); found != nil {
				return where, found
			}
		}
	}
	return "", nil
}
