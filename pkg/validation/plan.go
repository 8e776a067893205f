package validation

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// plan checks messages of one type in one walk: the rules in its .proto, read once. It only ever says that a message
// keeps them all; which rule a message breaks, and in which words, protovalidate says.
//
// # Why
//
// Nearly every message is valid, and for those the answer is all that is wanted. protovalidate asks each rule through some
// layers, runs an expression for each line of an order and a regular expression for each text with a pattern: some four
// times the cost. Doing it all here would be a second text for each rule, and two that may differ. So a rule that is not
// understood here makes a type have no plan, and a text that is only probably of the right form is no text of that form:
// protovalidate decides then, as it did. TestThePlanNeverPassesWhatBreaksARule compares the two.
type plan struct {
	fields []fieldPlan
	// anyOf are expressions "this.a != '' || this.b != ''": one of the texts must be there.
	anyOf [][]protoreflect.FieldDescriptor
}

type fieldPlan struct {
	fd       protoreflect.FieldDescriptor
	required bool
	// minItems and maxItems bound a list; presence says that an absent value breaks no rule.
	list, presence     bool
	minItems, maxItems int
	// value checks the value, or each of a list; nil for no rule. message is the plan of a message, or of each of a list.
	value   func(protoreflect.Value) bool
	message *plan
}

// plans caches the plan of each type; a type without one has nil.
var plans sync.Map //nolint:gochecknoglobals // a cache, of protoreflect.MessageDescriptor to *plan

func planOf(kind protoreflect.MessageDescriptor) *plan {
	if p, known := plans.Load(kind); known {
		return p.(*plan)
	}
	within := map[protoreflect.MessageDescriptor]*plan{}
	p := makePlan(kind, within)
	if slices.Contains(values(within), nil) {
		p = nil // a type that it contains has no plan
	}
	got, _ := plans.LoadOrStore(kind, p)
	return got.(*plan)
}

func values(of map[protoreflect.MessageDescriptor]*plan) (list []*plan) {
	for _, p := range of {
		list = append(list, p)
	}
	return list
}

// makePlan adds kind and all types that it contains to within; nil for one with a rule that is not understood.
func makePlan(kind protoreflect.MessageDescriptor, within map[protoreflect.MessageDescriptor]*plan) *plan {
	if p, known := within[kind]; known {
		return p
	}
	p := &plan{}
	within[kind] = p
	if !p.messageRules(kind) {
		within[kind] = nil
		return nil
	}
	for i := range kind.Fields().Len() {
		fd := kind.Fields().Get(i)
		f, understood := makeField(fd, within)
		if !understood {
			within[kind] = nil
			return nil
		}
		if f.required || f.minItems > 0 || f.maxItems < math.MaxInt || f.value != nil || f.message != nil {
			p.fields = append(p.fields, f)
		}
	}
	return p
}

var anyOf = regexp.MustCompile(`^this\.\w+ != ''( \|\| this\.\w+ != '')*$`)

func (p *plan) messageRules(kind protoreflect.MessageDescriptor) bool {
	rules, _ := proto.GetExtension(kind.Options(), validate.E_Message).(*validate.MessageRules)
	if !only(rules, "cel") {
		return false
	}
	for i := range kind.Oneofs().Len() {
		o := kind.Oneofs().Get(i)
		if oneof, _ := proto.GetExtension(o.Options(), validate.E_Oneof).(*validate.OneofRules); !only(oneof) {
			return false
		}
	}
	for _, cel := range rules.GetCel() {
		if !anyOf.MatchString(cel.GetExpression()) {
			return false
		}
		var texts []protoreflect.FieldDescriptor
		for _, term := range strings.Split(cel.GetExpression(), " || ") {
			name := strings.TrimSuffix(strings.TrimPrefix(term, "this."), " != ''")
			fd := kind.Fields().ByName(protoreflect.Name(name))
			if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
				return false
			}
			texts = append(texts, fd)
		}
		p.anyOf = append(p.anyOf, texts)
	}
	return true
}

// only reports whether rules, which may be nil, say nothing besides the named fields.
func only(rules proto.Message, names ...protoreflect.Name) bool {
	r := rules.ProtoReflect()
	only := len(r.GetUnknown()) == 0
	r.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		only = only && !fd.IsExtension() && slices.Contains(names, fd.Name())
		return only
	})
	return only
}

func makeField(fd protoreflect.FieldDescriptor, within map[protoreflect.MessageDescriptor]*plan) (f fieldPlan, understood bool) {
	rules, _ := proto.GetExtension(fd.Options(), validate.E_Field).(*validate.FieldRules)
	f = fieldPlan{fd: fd, required: rules.GetRequired(), list: fd.IsList(), presence: fd.HasPresence(), maxItems: math.MaxInt}
	values := rules
	switch {
	case fd.IsMap():
		return f, only(rules) && fd.MapValue().Message() == nil
	case fd.IsList():
		list := rules.GetRepeated()
		if !only(rules, "required", "repeated") || !only(list, "min_items", "max_items", "items") {
			return f, false
		}
		f.minItems = int(min(list.GetMinItems(), math.MaxInt))
		if list.HasMaxItems() {
			f.maxItems = int(min(list.GetMaxItems(), math.MaxInt))
		}
		if values = list.GetItems(); values.GetRequired() {
			return f, false
		}
	}
	if fd.Message() != nil {
		if !fd.IsList() && !only(rules, "required") || fd.IsList() && !only(values) {
			return f, false
		}
		if p := makePlan(fd.Message(), within); p == nil {
			return f, false
		} else if !p.empty() {
			f.message = p
		}
		return f, true
	}
	if values == nil || fd.IsList() && rules.GetRepeated().GetItems() == nil {
		return f, true
	}
	f.value, understood = makeValue(fd, values)
	return f, understood
}

// empty: a type without rules, such as a time. A plan that is being made is not.
func (p *plan) empty() bool { return len(p.fields) == 0 && len(p.anyOf) == 0 }

func makeValue(fd protoreflect.FieldDescriptor, rules *validate.FieldRules) (check func(protoreflect.Value) bool, understood bool) {
	if only(rules, "required") {
		return nil, true
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		s := rules.GetString()
		if !only(rules, "required", "string") || !only(s, "min_len", "max_len", "pattern") {
			return nil, false
		}
		least, most, is := int(s.GetMinLen()), math.MaxInt, form(nil)
		if s.HasMaxLen() {
			most = int(min(s.GetMaxLen(), math.MaxInt))
		}
		if s.HasPattern() {
			if is, understood = formOf(s.GetPattern()); !understood {
				return nil, false
			}
		}
		return func(v protoreflect.Value) bool {
			text := v.String()
			if len(text) > most || least > 1 || len(text) < least { // else it has between one and most characters, as many as bytes at most
				if n := utf8.RuneCountInString(text); n < least || n > most {
					return false
				}
			}
			return is == nil || is.matches(text)
		}, true
	case protoreflect.Int64Kind:
		i := rules.GetInt64()
		if !only(rules, "required", "int64") || !only(i, "gt", "gte", "lt", "lte") {
			return nil, false
		}
		return between(protoreflect.Value.Int, math.MinInt64, math.MaxInt64, i), true
	case protoreflect.Int32Kind:
		i := rules.GetInt32()
		if !only(rules, "required", "int32") || !only(i, "gt", "gte", "lt", "lte") {
			return nil, false
		}
		return between(func(v protoreflect.Value) int32 { return int32(v.Int()) }, math.MinInt32, math.MaxInt32, i), true
	case protoreflect.EnumKind:
		e := rules.GetEnum()
		if !only(rules, "required", "enum") || !only(e, "defined_only", "not_in") {
			return nil, false
		}
		defined, not, values := e.GetDefinedOnly(), e.GetNotIn(), fd.Enum().Values()
		return func(v protoreflect.Value) bool {
			return !slices.Contains(not, int32(v.Enum())) && (!defined || values.ByNumber(v.Enum()) != nil)
		}, true
	}
	return nil, false
}

// bounds are the rules of a number.
type bounds[N int32 | int64] interface {
	HasGt() bool
	HasGte() bool
	HasLt() bool
	HasLte() bool
	GetGt() N
	GetGte() N
	GetLt() N
	GetLte() N
}

// between checks that a number is within both bounds. protovalidate takes it the other way round when the upper is below
// the lower one ("outside of"); here nothing is within those, and it decides.
func between[N int32 | int64](of func(protoreflect.Value) N, least, most N, b bounds[N]) func(protoreflect.Value) bool {
	above, below := false, false // the bound itself is out
	switch {
	case b.HasGt():
		least, above = b.GetGt(), true
	case b.HasGte():
		least = b.GetGte()
	}
	switch {
	case b.HasLt():
		most, below = b.GetLt(), true
	case b.HasLte():
		most = b.GetLte()
	}
	return func(v protoreflect.Value) bool {
		n := of(v)
		return n >= least && n <= most && (n != least || !above) && (n != most || !below)
	}
}

// keeps reports whether m certainly breaks no rule.
func (p *plan) keeps(m protoreflect.Message) bool {
	for i := range p.fields {
		if !p.fields[i].keeps(m) {
			return false
		}
	}
	for _, texts := range p.anyOf {
		if !slices.ContainsFunc(texts, func(fd protoreflect.FieldDescriptor) bool { return m.Has(fd) }) {
			return false
		}
	}
	return true
}

func (f *fieldPlan) keeps(m protoreflect.Message) bool {
	if (f.required || f.presence) && !m.Has(f.fd) {
		return !f.required
	}
	v := m.Get(f.fd)
	if !f.list {
		return (f.value == nil || f.value(v)) && (f.message == nil || f.message.keeps(v.Message()))
	}
	list := v.List()
	n := list.Len()
	if n < f.minItems || n > f.maxItems {
		return false
	}
	if f.value == nil && f.message == nil {
		return true
	}
	for i := range n {
		v := list.Get(i)
		if f.value != nil && !f.value(v) || f.message != nil && !f.message.keeps(v.Message()) {
			return false
		}
	}
	return true
}

// overlong finds a list of m itself with more than twice the elements that it may have.
func (p *plan) overlong(m protoreflect.Message) *fieldPlan {
	for i := range p.fields {
		f := &p.fields[i]
		if f.list && f.maxItems < math.MaxInt/2 && m.Get(f.fd).List().Len() > 2*f.maxItems {
			return f
		}
	}
	return nil
}
