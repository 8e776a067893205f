package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"stockbridge/pkg/secret"
)

// keyBytes is the size of a key: AES-256.
const keyBytes = 32

// Keys seal and open stored tokens: the first seals, all open. The zero value has no keys and can do neither.
type Keys struct{ all []key }

type key struct {
	// id distinguishes keys and reveals nothing of them.
	id   string
	aead cipher.AEAD
}

// NewKey makes a key as ParseKeys reads it.
func NewKey() secret.Text {
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw) // never fails
	return secret.New(base64.StdEncoding.EncodeToString(raw))
}

// ParseKeys reads keys of 32 bytes in base64 or hex, separated by commas or white space. To change the key, give all
// workers the new one behind the old one, then put it first; the old one can be removed once `bridgectl seller ls`
// shows nothing sealed with it, about a minute later. Its errors repeat nothing of the text.
func ParseKeys(text string) (Keys, error) {
	var keys Keys
	seen := map[string]bool{}
	for i, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' }) {
		raw, ok := decodeKey(word)
		if !ok {
			return Keys{}, fmt.Errorf("key %d: want 32 bytes in base64 or hex, as `openssl rand -base64 32` makes them", i+1)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		sum := sha256.Sum256(append([]byte("stockbridge token key "), raw...))
		k := key{id: hex.EncodeToString(sum[:4]), aead: aead}
		if seen[k.id] {
			return Keys{}, fmt.Errorf("key %d: given twice", i+1)
		}
		seen[k.id] = true
		keys.all = append(keys.all, k)
	}
	return keys, nil
}

func decodeKey(word string) ([]byte, bool) {
	if raw, err := hex.DecodeString(word); err == nil && len(raw) == keyBytes {
		return raw, true
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if raw, err := e.DecodeString(word); err == nil && len(raw) == keyBytes {
			return raw, true
		}
	}
	return nil, false
}

// None reports whether there are no keys.
func (k Keys) None() bool { return len(k.all) == 0 }

// first is the id of the key that seals.
func (k Keys) first() string { return k.all[0].id }

// pair is what is sealed.
type pair struct {
	Access  string `json:"access"`
	Refresh string `json:"refresh,omitempty"`
}

// associatedData binds a sealed pair to its account: under another account it does not open.
func associatedData(id ID) []byte { return []byte("stockbridge token 1 " + id.String()) }

var errNoKey = errors.New("no key")

func (k Keys) seal(id ID, p pair) (keyID string, box []byte, err error) {
	if k.None() {
		return "", nil, errNoKey
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return "", nil, err
	}
	nonce := make([]byte, k.all[0].aead.NonceSize())
	_, _ = rand.Read(nonce)
	return k.all[0].id, k.all[0].aead.Seal(nonce, nonce, plain, associatedData(id)), nil
}

func (k Keys) open(id ID, keyID string, box []byte) (pair, error) {
	for _, one := range k.all {
		if one.id != keyID {
			continue
		}
		n := one.aead.NonceSize()
		if len(box) < n {
			return pair{}, errors.New("it is too short")
		}
		plain, err := one.aead.Open(nil, box[:n], box[n:], associatedData(id))
		if err != nil {
			return pair{}, errors.New("it was changed, or belongs to another account")
		}
		var p pair
		if err := json.Unmarshal(plain, &p); err != nil || p.Access == "" {
			return pair{}, errors.New("it holds no token") // the decoder's error may quote it
		}
		return p, nil
	}
	return pair{}, errNoKey
}
