package kinds

import (
	"testing"

	sellerv1 "stockbridge/proto/seller/v1"
)

// Every kind that a setting may name has an adapter, and each adapter has identities of its own.
func TestEveryKindHasAnAdapter(t *testing.T) {
	seen := map[string]string{}
	for number, name := range sellerv1.Account_Kind_name {
		a := &sellerv1.Account{Name: "main", Kind: sellerv1.Account_Kind(number)}
		_, unknown := Of(a).(none)
		if number == int32(sellerv1.Account_KIND_UNSPECIFIED) {
			if !unknown || Of(a).Identity(a) != "" || Of(a).Validate(a) != nil {
				t.Errorf("%s has an adapter", name)
			}
			continue
		}
		if unknown {
			t.Errorf("%s has no adapter", name)
		}
		id := string(Of(a).Identity(a))
		if id == "" || seen[id] != "" {
			t.Errorf("%s has identity %q, as %q", name, id, seen[id])
		}
		seen[id] = name
	}
}
