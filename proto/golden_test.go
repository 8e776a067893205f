// Package proto_test holds what readers of our JSON rely on: the names of its fields.
package proto_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	documentv1 "stockbridge/proto/document/v1"
	opsv1 "stockbridge/proto/ops/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// Every message that travels by itself has testdata/<Message>.json in its package's folder. The file fills every field
// that the message and its parts have, and reading and writing it changes nothing: a field that was renamed, retyped,
// removed, or added without a sample turns this red.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("*", "v1", "*.proto"))
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, file := range files {
		missing[filepath.ToSlash(file)] = true
	}
	defer func() {
		for file := range missing {
			t.Errorf("%s is not in this test's list", file)
		}
	}()
	for _, file := range []protoreflect.FileDescriptor{
		documentv1.File_document_v1_document_proto, opsv1.File_ops_v1_ops_proto, orderv1.File_order_v1_order_proto, purchasev1.File_purchase_v1_purchase_proto, sellerv1.File_seller_v1_seller_proto, stockv1.File_stock_v1_stock_proto, vmiv1.File_vmi_v1_vmi_proto,
	} {
		delete(missing, file.Path())
		folder := filepath.Join(filepath.Dir(file.Path()), "testdata")
		part := parts(file)
		wanted := map[string]bool{}
		for i := range file.Messages().Len() {
			desc := file.Messages().Get(i)
			golden := filepath.Join(folder, string(desc.Name())+".json")
			if part[desc.FullName()] && !alsoTravels[desc.FullName()] {
				continue
			}
			wanted[golden] = true
			t.Run(string(desc.FullName()), func(t *testing.T) { checkGolden(t, golden, desc) })
		}
		there, err := filepath.Glob(filepath.Join(folder, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, golden := range there {
			if !wanted[golden] {
				t.Errorf("%s: no such message travels", golden)
			}
		}
	}
}

func checkGolden(t *testing.T, golden string, desc protoreflect.MessageDescriptor) {
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("a sample with every field filled is wanted: %v", err)
	}
	m := dynamicpb.NewMessage(desc)
	if err := protojson.Unmarshal(want, m); err != nil {
		t.Fatalf("%s: %v", golden, err)
	}
	got, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := canonical(t, want), canonical(t, got); a != b {
		t.Errorf("%s reads back as something else:\n%s\nfile:\n%s", golden, b, a)
	}
	binary, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	again := dynamicpb.NewMessage(desc)
	if err := proto.Unmarshal(binary, again); err != nil || !proto.Equal(m, again) {
		t.Errorf("%s does not survive the binary form: %v", golden, err)
	}
	filled := map[protoreflect.FullName]bool{}
	fill(m, filled)
	for name, ok := range filled {
		if !ok {
			t.Errorf("%s has no value for %s", golden, name)
		}
	}
}

// alsoTravels are messages that stand inside others and travel by themselves too.
var alsoTravels = map[protoreflect.FullName]bool{"vmi.v1.WindowDue": true}

// parts names the messages of file that stand inside others.
func parts(file protoreflect.FileDescriptor) map[protoreflect.FullName]bool {
	found := map[protoreflect.FullName]bool{}
	for i := range file.Messages().Len() {
		fields := file.Messages().Get(i).Fields()
		for j := range fields.Len() {
			if inner := fields.Get(j).Message(); inner != nil {
				found[inner.FullName()] = true
			}
		}
	}
	return found
}

// fill notes for each field of m and of our messages inside it whether any of them has a value.
func fill(m protoreflect.Message, filled map[protoreflect.FullName]bool) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		filled[field.FullName()] = filled[field.FullName()] || m.Has(field)
		if field.Message() == nil || strings.HasPrefix(string(field.Message().FullName()), "google.protobuf.") {
			continue
		}
		if !field.IsList() {
			if m.Has(field) {
				fill(m.Get(field).Message(), filled)
			}
			continue
		}
		list := m.Get(field).List()
		for j := range list.Len() {
			fill(list.Get(j).Message(), filled)
		}
	}
}

func canonical(t *testing.T, body []byte) string {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
