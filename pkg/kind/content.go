package kind

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// ContentMark is the prefix of the hashes of contents. Those of the first build are just 64 hexadecimal digits.
const ContentMark = "2:"

// Content is what a document's hash is over: what reaches the warehouse, in a fixed order. Each text is prefixed with its
// length, so that different contents never collide.
type Content []byte

// contents are for use again: each would be a kilobyte of garbage otherwise.
var contents = sync.Pool{New: func() any { return new(Content) }} //nolint:gochecknoglobals // a pool

// maxKept is the longest content that is kept for use again, bytes.
const maxKept = 64 << 10

// NewContent is an empty one. Sum ends its use.
func NewContent() *Content { return contents.Get().(*Content) }

// Texts adds texts.
func (c *Content) Texts(list ...string) {
	for _, s := range list {
		*c = binary.AppendUvarint(*c, uint64(len(s)))
		*c = append(*c, s...)
	}
}

// Number adds a number.
func (c *Content) Number(n int64) { *c = binary.AppendVarint(*c, n) }

// Flag adds a yes or no.
func (c *Content) Flag(is bool) {
	if is {
		*c = append(*c, 1)
	} else {
		*c = append(*c, 0)
	}
}

// Time adds a time to the second; nil is another content than any time.
func (c *Content) Time(at *timestamppb.Timestamp) {
	c.Flag(at != nil)
	if at != nil {
		c.Number(at.Seconds)
	}
}

// Sum is the hash. The content must not be used after it.
func (c *Content) Sum() string {
	sum := sha256.Sum256(*c)
	if *c = (*c)[:0]; cap(*c) <= maxKept {
		contents.Put(c)
	}
	var text [len(ContentMark) + 2*sha256.Size]byte
	copy(text[:], ContentMark)
	hex.Encode(text[len(ContentMark):], sum[:])
	return string(text[:])
}
