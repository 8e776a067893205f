package inkv

import (
	"fmt"
	"strings"

	"stockbridge/pkg/ledger"
)

// The first tokens of the keys in the bucket, and in the bucket of books.
const (
	heads = "head"
	pages = "page"

	epochKey     = "birth"
	checkKey     = "check"
	entries      = "entry"
	groupItems   = "lines"
	attempts     = "attempts"
	leases       = "lease"
	quotas       = "quota"
	trials       = "trial"
	plainSymbols = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
)

// keyOf makes a key of tokens. A byte that a bucket does not accept in a token is written as = and two hexadecimal
// digits, the empty token as =.
func keyOf(tokens ...string) string {
	var key strings.Builder
	for i, token := range tokens {
		if i > 0 {
			key.WriteByte('.')
		}
		if token == "" {
			key.WriteByte('=')
		}
		for _, b := range []byte(token) {
			if strings.IndexByte(plainSymbols, b) >= 0 {
				key.WriteByte(b)
			} else {
				fmt.Fprintf(&key, "=%02X", b)
			}
		}
	}
	return key.String()
}

func entryKey(k ledger.Key) string { return keyOf(entries, k.Seller, k.Kind, k.No) }

func itemsKey(k ledger.Key, group string) string {
	return keyOf(groupItems, k.Seller, k.Kind, group)
}
