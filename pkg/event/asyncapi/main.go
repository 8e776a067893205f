// Asyncapi writes the AsyncAPI document of the public streams to standard output. Package event's table lists the
// events, the .proto files define their fields, and the samples show them.
//
//	asyncapi DIR PROTO
//
// DIR holds the JSON schemas of the messages as buf's schema plug-in writes them (field names of the .proto files),
// PROTO is the folder of the .proto files. `make generate` runs it.
//
// # Why
//
// The plug-in forbids unknown fields and requires none. We do neither: unknown fields are kept (promise P11), and the
// fields that validation demands of an empty message are required. So both are rewritten here.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/event"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code.
func run(args []string, out, complaints io.Writer) int {
	if err := write(args, out); err != nil {
		fmt.Fprintln(complaints, "asyncapi:", err)
		return 1
	}
	return 0
}

// object is a JSON object; encoding writes its keys in order.
type object map[string]any

func write(args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("want the folder of the schemas and the folder of the .proto files")
	}
	w := writer{schemas: args[0], samples: args[1], parts: object{}}
	doc, err := w.document()
	if err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

type writer struct {
	schemas, samples string
	// parts are the schemas that the document already has.
	parts object
}

func (w writer) document() (object, error) {
	channels, operations, messages := object{}, object{}, object{}
	for _, f := range event.Facts() {
		if f.Reserved {
			continue
		}
		m := f.New()
		if err := w.schema(m); err != nil {
			return nil, err
		}
		sample, err := w.sample(m)
		if err != nil {
			return nil, err
		}
		about, _ := w.parts[name(m)].(object)["description"].(string)
		headers := "given"
		if f.FromERP {
			headers = "taken"
		}
		messages[f.Name] = object{
			"name": f.Name, "title": name(m), "summary": about, "contentType": "application/json",
			"headers": ref("schemas", headers), "payload": ref("schemas", name(m)),
			"examples": []object{{"name": "every field filled", "payload": sample}},
		}
		channels[f.Name] = object{
			"address":    f.Name + ".{seller}",
			"parameters": object{"seller": ref("parameters", "seller")},
			"messages":   object{f.Name: ref("messages", f.Name)},
		}
		action := "send"
		if f.FromERP {
			action = "receive"
		}
		operations[f.Name] = object{"action": action, "channel": object{"$ref": "#/channels/" + f.Name}, "summary": about}
	}
	maps.Copy(w.parts, headerSchemas())
	return object{
		"asyncapi": "3.0.0",
		"info": object{
			"title": "Stockbridge", "version": "1",
			"description": "What an ERP publishes on NATS JetStream and what it receives. `receive` is what Stockbridge consumes, `send` what it publishes. " +
				"An ERP publishes with a JetStream publish and waits for the answer; it may omit the seller in the subject. " +
				"Field names may be in camelCase when they are sent to us; fields that are not listed are ignored and kept. " +
				"The same event may come twice with the same ce-id.\n\n" +
				"ERP 通过 NATS JetStream 发布事件（operation 为 receive），并接收结果（operation 为 send）。同一事件可能以相同的 ce-id 重复到达。",
			"license": object{"name": "Apache-2.0"},
		},
		"defaultContentType": "application/json",
		"servers":            object{"local": object{"host": "127.0.0.1:4222", "protocol": "nats", "description": "make run"}},
		"channels":           channels,
		"operations":         operations,
		"components": object{
			"messages": messages, "schemas": w.parts,
			"parameters": object{"seller": object{"description": "The seller's name in the set-up: a-z, 0-9, _ and -, 32 at most."}},
		},
	}, nil
}

func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

func name(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }

// schema adds a message's schema and those of its parts to the document.
func (w writer) schema(m proto.Message) error {
	if _, done := w.parts[name(m)]; done {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(w.schemas, name(m)+suffix))
	if err != nil {
		return err
	}
	var s object
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("schema of %s: %w", name(m), err)
	}
	for _, key := range []string{"$id", "$schema", "additionalProperties", "patternProperties"} {
		delete(s, key)
	}
	if _, isDuration := m.(*durationpb.Duration); isDuration {
		// The plug-in says ISO 8601; protobuf's JSON writes seconds, such as 30s.
		s = object{"title": "Duration", "type": "string", "pattern": `^-?[0-9]+(\.[0-9]{1,9})?s$`}
	}
	if need := required(m); len(need) > 0 {
		s["required"] = need
	}
	w.parts[name(m)] = local(map[string]any(s))
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.MessageKind {
			continue
		}
		part := m.ProtoReflect().NewField(f)
		if f.IsList() {
			part = part.List().NewElement()
		}
		if err := w.schema(part.Message().Interface()); err != nil {
			return err
		}
	}
	return nil
}

// suffix ends the names of the plug-in's files, and its references between them.
const suffix = ".schema.json"

// local rewrites references to point into the document itself.
func local(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if to, ok := inner.(string); ok && key == "$ref" {
				v[key] = "#/components/schemas/" + strings.TrimSuffix(to, suffix)
				continue
			}
			v[key] = local(inner)
		}
		return object(v)
	case []any:
		for i := range v {
			v[i] = local(v[i])
		}
	}
	return v
}

// required are the fields that validation demands of an empty message.
func required(m proto.Message) []string {
	var invalid *protovalidate.ValidationError
	if !errors.As(protovalidate.Validate(m), &invalid) {
		return nil
	}
	need := map[string]bool{}
	for _, v := range invalid.Violations {
		if path := v.Proto.GetField().GetElements(); len(path) == 1 {
			need[path[0].GetFieldName()] = true
		}
	}
	return slices.Sorted(maps.Keys(need))
}

// sample is testdata/<Message>.json beside the message's .proto file, with the field names that are stored.
func (w writer) sample(m proto.Message) (json.RawMessage, error) {
	d := m.ProtoReflect().Descriptor()
	file := filepath.Join(w.samples, filepath.Dir(d.ParentFile().Path()), "testdata", string(d.Name())+".json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	filled := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(raw, filled); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(filled)
}

// headerSchemas are those of CloudEvents' NATS binding, and the trace.
func headerSchemas() object {
	text := func(about string) object { return object{"type": "string", "description": about} }
	all := object{
		event.HeaderID:      text("The same fact always has the same id; deduplicate by it."),
		event.HeaderType:    text("The event's name."),
		event.HeaderSource:  text("The publishing service."),
		event.HeaderSubject: text("What it is about: an outbound number, a seller."),
		event.HeaderTime:    object{"type": "string", "format": "date-time", "description": "When it happened."},
		event.HeaderSpec:    object{"type": "string", "enum": []string{"1.0"}},
		event.HeaderTrace:   text("W3C trace context; passed on to the events that follow."),
		event.HeaderContentType: object{
			"type": "string", "enum": []string{"application/json", "application/protobuf"},
			"description": "application/json when absent.",
		},
	}
	taken := maps.Clone(all)
	taken[event.HeaderID] = text("The ERP's id of the message; repeats are recognised by the outbound number in the body.")
	return object{
		"taken": object{"type": "object", "description": "None is required.", "properties": taken},
		"given": object{
			"type": "object", "properties": all,
			"required": []string{event.HeaderID, event.HeaderType, event.HeaderSource, event.HeaderSubject, event.HeaderTime, event.HeaderSpec},
		},
	}
}
