package seller

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
)

// maxText is the most that Parse reads, in bytes; maxNodes the most values, with aliases counted at each use.
const (
	maxText  = 4 << 20
	maxNodes = 500_000
)

// Faults are all the faults of a set-up, each with its path, its line if it was parsed from text, and what to do.
type Faults []fault.Reason

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, r := range f {
		lines[i] = r.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap exposes each fault to errors.As.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, r := range f {
		errs[i] = r
	}
	return errs
}

// Parse reads a set-up from YAML or JSON. It accepts no unknown key and finds all faults at once: the error is
// Faults.
//
// # Why
//
// It reads YAML's own tree rather than YAML's values, because codes are text: `code: 007`, `code: no` and
// `warehouse_no: 110006341` mean what is written. A key without a value is refused: `trial:` with nothing behind it
// would otherwise let every order be sent.
func Parse(text []byte) (*sellerv1.Setup, error) {
	if len(text) > maxText {
		return nil, Faults{{Code: "setup.size",
			ZH: fmt.Sprintf("设置文件超过 %d 字节", maxText), EN: fmt.Sprintf("the set-up is larger than %d bytes", maxText)}}
	}
	var document, further yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, Faults{{Code: "setup.syntax", ZH: "设置文件是空的", EN: "the set-up is empty"}}
		}
		return nil, Faults{{Code: "setup.syntax", ZH: "不是有效的 YAML 或 JSON：" + err.Error(), EN: "neither YAML nor JSON: " + err.Error()}}
	}
	if err := decoder.Decode(&further); !errors.Is(err, io.EOF) {
		return nil, Faults{{Code: "setup.syntax", ZH: "一个文件只能有一个商家（不允许第二个 YAML 文档）", EN: "one seller a file: there is a second YAML document"}}
	}
	r := &reader{lines: map[string]int{}}
	setup := &sellerv1.Setup{}
	r.message("", document.Content[0], setup.ProtoReflect())
	for _, reason := range validate(setup) {
		if r.spoiled(reason.Field) {
			continue // reported already, more precisely
		}
		r.fault(r.line(reason.Field), reason)
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	return setup, nil
}

// reader fills a message from a YAML tree.
type reader struct {
	faults Faults
	// lines maps each path to its line, bad lists the paths with a fault.
	lines map[string]int
	bad   []string
	nodes int
}

func (r *reader) fault(line int, reason fault.Reason) {
	if line > 0 {
		reason.ZH = fmt.Sprintf("第 %d 行：%s", line, reason.ZH)
		reason.EN = fmt.Sprintf("line %d: %s", line, reason.EN)
	}
	r.faults = append(r.faults, reason)
	r.bad = append(r.bad, reason.Field)
}

func (r *reader) wrong(path string, n *yaml.Node, zh, en string) {
	r.fault(n.Line, fault.Reason{Code: "setup.value", Field: path, ZH: zh, EN: en})
}

// spoiled reports whether path, or what contains it, was found faulty while reading.
func (r *reader) spoiled(path string) bool {
	for _, bad := range r.bad {
		if rest, ok := strings.CutPrefix(path, bad); ok && bad != "" && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// line is the line of path, or of what contains it.
func (r *reader) line(path string) int {
	for path != "" {
		if line := r.lines[path]; line > 0 {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// resolve follows an alias and counts values; nil above the limit.
func (r *reader) resolve(path string, n *yaml.Node) *yaml.Node {
	if r.nodes++; r.nodes == maxNodes {
		r.wrong(path, n, fmt.Sprintf("设置中的值超过 %d 个", maxNodes), fmt.Sprintf("more than %d values", maxNodes))
	}
	if r.nodes >= maxNodes {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	r.lines[path] = n.Line
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		r.wrong(path, n, "没有值；不需要时请删除该键", "no value: leave the key out if it is not needed")
		return nil
	}
	return n
}

func (r *reader) message(path string, n *yaml.Node, m protoreflect.Message) {
	if n = r.resolve(path, n); n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(path, n, "应为键值对", "want keys with values")
		return
	}
	fields, seen := m.Descriptor().Fields(), map[protoreflect.Name]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := key.Value
		if path != "" {
			at = path + "." + key.Value
		}
		field := fields.ByName(protoreflect.Name(key.Value))
		if field == nil {
			field = fields.ByJSONName(key.Value)
		}
		switch {
		case field == nil:
			names := make([]string, fields.Len())
			for j := range names {
				names[j] = string(fields.Get(j).Name())
			}
			known := strings.Join(names, ", ")
			r.fault(key.Line, fault.Reason{Code: "setup.key", Field: at, ZH: "未知的键；此处可用：" + known, EN: "unknown key; known here: " + known})
		case seen[field.Name()]:
			r.fault(key.Line, fault.Reason{Code: "setup.key", Field: at, ZH: "同一个键出现了两次", EN: "the key is given twice"})
		default:
			seen[field.Name()] = true
			at = strings.TrimSuffix(at, key.Value) + string(field.Name())
			r.field(at, value, m, field)
		}
	}
}

func (r *reader) field(path string, n *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor) {
	if !field.IsList() {
		if isDuration(field) {
			r.duration(path, n, m, field)
		} else if field.Message() != nil {
			r.message(path, n, m.Mutable(field).Message())
		} else if v := r.scalar(path, n, field); v.IsValid() {
			m.Set(field, v)
		}
		return
	}
	if n = r.resolve(path, n); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(path, n, "应为列表", "want a list")
		return
	}
	list := m.Mutable(field).List()
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if field.Message() != nil {
			r.message(at, item, list.AppendMutable().Message())
			continue
		}
		v := r.scalar(at, item, field)
		if !v.IsValid() {
			v = list.NewElement() // keeps the indices of later elements
		}
		list.Append(v)
	}
}

func isDuration(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == (*durationpb.Duration)(nil).ProtoReflect().Descriptor().FullName()
}

// longest is the longest duration, in protojson's form: whole days become too many seconds otherwise.
const longest = 100 * 365 * 24 * time.Hour

// duration reads "30s", "5m", "1h30m".
func (r *reader) duration(path string, n *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor) {
	if n = r.resolve(path, n); n == nil {
		return
	}
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d > longest || d < -longest {
		r.wrong(path, n, "应为时长，如 30s、5m、1h", "want a duration like 30s, 5m or 1h")
		return
	}
	m.Set(field, protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()))
}

// scalar is invalid when a fault was found.
func (r *reader) scalar(path string, n *yaml.Node, field protoreflect.FieldDescriptor) (v protoreflect.Value) {
	if n = r.resolve(path, n); n == nil {
		return v
	}
	if n.Kind != yaml.ScalarNode {
		r.wrong(path, n, "应为单个值", "want a single value")
		return v
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(n.Value)
	case protoreflect.BoolKind:
		if n.Value == "true" || n.Value == "false" {
			return protoreflect.ValueOfBool(n.Value == "true")
		}
		r.wrong(path, n, "应为 true 或 false", "want true or false")
	case protoreflect.Int32Kind:
		if number, err := strconv.ParseInt(n.Value, 10, 32); err == nil {
			return protoreflect.ValueOfInt32(int32(number))
		}
		r.wrong(path, n, "应为整数", "want a whole number")
	case protoreflect.Int64Kind:
		if number, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return protoreflect.ValueOfInt64(number)
		}
		r.wrong(path, n, "应为整数", "want a whole number")
	case protoreflect.DoubleKind:
		if number, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsNaN(number) && !math.IsInf(number, 0) {
			return protoreflect.ValueOfFloat64(number)
		}
		r.wrong(path, n, "应为数字", "want a number")
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		words := make([]string, 0, values.Len())
		for i := range values.Len() {
			value := values.Get(i)
			if value.Number() == 0 {
				continue
			}
			if strings.EqualFold(n.Value, string(value.Name())) || strings.EqualFold(n.Value, enumWord(value)) {
				return protoreflect.ValueOfEnum(value.Number())
			}
			words = append(words, enumWord(value))
		}
		known := strings.Join(words, ", ")
		r.wrong(path, n, "应为其中之一："+known, "want one of "+known)
	default:
		panic(fmt.Sprintf("seller: a set-up has no fields of kind %v", field.Kind()))
	}
	return v
}

// enumWord is the value's name without what all values of its enum begin with: "jd" for KIND_JD.
func enumWord(v protoreflect.EnumValueDescriptor) string {
	zero := v.Parent().(protoreflect.EnumDescriptor).Values().ByNumber(0).Name()
	prefix := strings.TrimSuffix(string(zero), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// Render writes a set-up as YAML that Parse reads back as the same set-up.
func Render(setup *sellerv1.Setup) ([]byte, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := encoder.Encode(mapping(setup.ProtoReflect())); err != nil {
		return nil, fmt.Errorf("render %s: %w", setup.Name, err)
	}
	return text.Bytes(), nil
}

func mapping(m protoreflect.Message) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		var value *yaml.Node
		if field.IsList() {
			value = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			list := m.Get(field).List()
			for j := range list.Len() {
				value.Content = append(value.Content, single(field, list.Get(j)))
			}
		} else {
			value = single(field, m.Get(field))
		}
		node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: string(field.Name())}, value)
	}
	return node
}

func single(field protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch field.Kind() {
	case protoreflect.MessageKind:
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: d.AsDuration().String()}
		}
		return mapping(v.Message())
	case protoreflect.EnumKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: enumWord(field.Enum().Values().ByNumber(v.Enum()))}
	case protoreflect.StringKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v.String()}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
	}
}
