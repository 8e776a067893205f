package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/personal"
)

// hidden replaces what is not shown. It contains no star, so it is not taken for a receiver that a sales platform
// masked.
const hidden = "(hidden)"

// errNotJSON: the text cannot be read, so nobody can say which part of it is personal.
var errNotJSON = errors.New("not JSON")

// pretty indents JSON text and keeps keys and numbers as they were sent. It prints (hidden) for what the fields of kind
// mark as personal, for values of a wrong type, and for every field that kind does not know: their content is unknown.
// A nil kind knows no field.
func pretty(body []byte, kind protoreflect.MessageDescriptor, reveal bool) (string, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	p := &printer{d: d, reveal: reveal}
	if err := p.value(shape{message: kind}, ""); err != nil {
		return "", fmt.Errorf("%w: at byte %d", errNotJSON, d.InputOffset())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%w: at byte %d something follows", errNotJSON, d.InputOffset())
	}
	return p.out.String(), nil
}

// shape is what a value may be.
type shape struct {
	// message is the type of an object; nil when no object is expected.
	message protoreflect.MessageDescriptor
	// list: an array of what else the shape says.
	list bool
	// plain: a scalar may be shown.
	plain bool
}

type printer struct {
	d      *json.Decoder
	out    strings.Builder
	reveal bool
}

func (p *printer) value(s shape, indent string) error {
	token, err := p.d.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		p.scalar(token, p.reveal || s.plain && !s.list || token == nil)
		return nil
	}
	deeper := indent + "  "
	if !p.reveal && (delim == '[' && !s.list || delim == '{' && (s.message == nil || s.list)) {
		p.scalar(nil, false)
		return p.skip()
	}
	s.list = false
	p.out.WriteString(delim.String())
	empty := true
	for ; p.d.More(); empty = false {
		if !empty {
			p.out.WriteByte(',')
		}
		p.out.WriteString("\n" + deeper)
		inner := s
		if delim == '{' {
			key, err := p.d.Token()
			if err != nil {
				return err
			}
			name := key.(string)
			if !p.reveal && fieldOf(s.message, name) == nil {
				name = personal.Hide(name) // an unknown field
			}
			p.scalar(name, true)
			p.out.WriteString(": ")
			inner = shapeOf(s.message, key.(string))
		}
		if err := p.value(inner, deeper); err != nil {
			return err
		}
	}
	end, err := p.d.Token()
	if err != nil {
		return err
	}
	if !empty {
		p.out.WriteString("\n" + indent)
	}
	p.out.WriteString(end.(json.Delim).String())
	return nil
}

// skip reads to the end of the object or array that was just opened.
func (p *printer) skip() error {
	for open := 1; open > 0; {
		token, err := p.d.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
	}
	return nil
}

func (p *printer) scalar(token json.Token, show bool) {
	if !show && token != "" {
		token = hidden
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(token) // a token that was decoded can be encoded, and a buffer accepts it
	p.out.WriteString(strings.TrimRight(b.String(), "\n"))
}

// shapeOf is the shape of the field with that JSON key.
func shapeOf(kind protoreflect.MessageDescriptor, key string) shape {
	field := fieldOf(kind, key)
	if field == nil || field.IsMap() || personal.Marked(field) {
		return shape{}
	}
	s := shape{list: field.IsList(), plain: true}
	if m := field.Message(); m != nil && m.ParentFile().Package() != "google.protobuf" {
		s.message, s.plain = m, false
	}
	return s
}

// fieldOf finds a field by either of its names in JSON.
func fieldOf(kind protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if kind == nil {
		return nil
	}
	if field := kind.Fields().ByJSONName(key); field != nil {
		return field
	}
	return kind.Fields().ByTextName(key)
}

// masked is a copy of m with stand's result in place of each text marked as personal.
func masked[M proto.Message](m M, stand func(field protoreflect.FieldDescriptor, text string) string) M {
	c := proto.CloneOf(m)
	mask(c.ProtoReflect(), stand)
	return c
}

func mask(m protoreflect.Message, stand func(protoreflect.FieldDescriptor, string) string) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case personal.Marked(field) && field.Kind() == protoreflect.StringKind && !field.IsList():
			m.Set(field, protoreflect.ValueOfString(stand(field, v.String())))
		case personal.Marked(field):
			m.Clear(field)
		case field.Message() != nil && field.IsList():
			for i := range v.List().Len() {
				mask(v.List().Get(i).Message(), stand)
			}
		case field.Message() != nil && !field.IsMap():
			mask(v.Message(), stand)
		}
		return true
	})
}

// body is a message as JSON for our output, personal data hidden unless reveal.
func body(m proto.Message, reveal bool) json.RawMessage {
	if !reveal {
		m = masked(m, func(protoreflect.FieldDescriptor, string) string { return hidden })
	}
	// Names as in the .proto, as in reasons.
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		raw, _ = json.Marshal("unprintable: " + err.Error())
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil { // protojson varies its spaces on purpose
		return raw
	}
	return b.Bytes()
}

// veiled is a dead letter as it may be shown: without texts that quote the persons in its body. Earlier builds stored
// the warehouse's own texts.
func veiled(m bus.DeadLetter) bus.DeadLetter {
	people := peopleIn(m)
	if m.Reason.RemoteText != "" || borrowed(m.Reason) {
		m.Error = people.Hide(m.Error)
	}
	m.Reason = veiledReason(m.Reason, people)
	header := make(map[string][]string, len(m.Header))
	for name, values := range m.Header {
		for _, v := range values {
			header[name] = append(header[name], people.Hide(v))
		}
	}
	if m.Header != nil {
		m.Header = header
	}
	return m
}

func veiledReason(r fault.Reason, people personal.Data) fault.Reason {
	if r.RemoteText = people.Hide(r.RemoteText); borrowed(r) {
		r.ZH, r.EN = people.Hide(r.ZH), people.Hide(r.EN)
	}
	return r
}

// borrowed reports whether a reason's text is an error's. Our own texts quote nobody, and the limits in them are no
// telephone numbers.
func borrowed(r fault.Reason) bool { return r.ZH == r.EN }

// peopleIn is the personal data in a message's body, as far as it can be read.
func peopleIn(m bus.DeadLetter) personal.Data {
	var people personal.Data
	name, _ := event.Split(m.Subject)
	if message, err := bus.DecodeFact(bus.Stored{Name: name, Header: m.Header, Body: m.Body}); err == nil && message != nil {
		people = personal.Of(message)
	}
	people.Known = append(people.Known, m.Key, m.ID, m.Trace)
	for _, name := range []string{event.HeaderID, event.HeaderSubject, event.HeaderTrace} {
		people.Known = append(people.Known, m.Header[name]...)
	}
	return people
}
