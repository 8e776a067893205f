package personal

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Marked reports whether a field's .proto marks it as personal (debug_redact).
func Marked(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}

// Of is the people's data in a message: the texts that its .proto marks as personal, distinguished by their names.
// Other texts may be shown, unless they are sentences, which may quote anything.
func Of(m proto.Message) Data {
	var d Data
	if m != nil {
		d.gather(m.ProtoReflect())
	}
	return d
}

func (d *Data) gather(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		each := func(one protoreflect.Value) {
			switch {
			case field.Message() != nil:
				d.gather(one.Message())
			case field.Kind() == protoreflect.StringKind:
				d.add(field, one.String())
			}
		}
		switch {
		case field.IsMap():
		case field.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		default:
			each(v)
		}
		return true
	})
}

func (d *Data) add(field protoreflect.FieldDescriptor, value string) {
	if !Marked(field) {
		switch field.Name() {
		case "zh", "en", "text", "remote_text":
		default:
			d.Known = append(d.Known, value)
		}
		return
	}
	switch field.Name() {
	case "name":
		d.Names = append(d.Names, value)
	case "mobile", "phone":
		d.Phones = append(d.Phones, value)
	case "address", "email":
		d.Addresses = append(d.Addresses, value)
	default:
		d.Remarks = append(d.Remarks, value)
	}
}
