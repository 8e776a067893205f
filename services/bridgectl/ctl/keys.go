package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/wiring"
	"stockbridge/pkg/worker"
	"stockbridge/services/bridgectl/stack"
)

// maxKeys bounds a file of keys, in bytes.
const maxKeys = 16 << 10

// givenTokenKey is TOKEN_KEY, or the content of the file that TOKEN_KEY_FILE names; "" when neither is set.
func (a *app) givenTokenKey() (worker.Secret, error) {
	if a.TokenKeyFile == "" {
		return a.TokenKey, nil
	}
	if a.TokenKey != "" {
		return "", misused("TOKEN_KEY and TOKEN_KEY_FILE are both given")
	}
	text, err := readKeys(a.TokenKeyFile)
	if err != nil {
		return "", fmt.Errorf("TOKEN_KEY_FILE: %w", err)
	}
	return text, nil
}

func readKeys(path string) (worker.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeys))
	return worker.Secret(strings.TrimSpace(string(text))), err
}

// tokenKeys are the keys that seal tokens: those given; else, unless another broker is named, those of an `up` in its
// default folder.
func (a *app) tokenKeys() (token.Keys, error) {
	key, err := a.givenTokenKey()
	if err == nil && key == "" && a.NATSURL == "" {
		if key, err = readKeys(stack.TokenKeyFile(usualData)); errors.Is(err, fs.ErrNotExist) {
			key, err = "", nil
		}
	}
	if err != nil {
		return token.Keys{}, err
	}
	keys, err := token.ParseKeys(key.Reveal())
	if err != nil {
		return token.Keys{}, fmt.Errorf("TOKEN_KEY: %w", err)
	}
	return keys, nil
}

// tokens opens the token store. Without keys nothing can be sealed or opened, only listed.
func (a *app) tokens(ctx context.Context, keys token.Keys) (*token.Store, error) {
	b, err := a.bus(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	bucket, err := b.Bucket(ctx, bus.BucketTokens)
	if err != nil {
		return nil, err
	}
	return token.Open(ctx, bucket, keys, zerolog.Nop())
}

// trust is what set-ups may name on this machine. Without a setting it is what `up` in the default folder trusts, if
// the command uses that broker, else what the workers trust.
func (a *app) trust() (seller.Trust, error) {
	if a.NATSURL == "" {
		return a.trustOf(usualData)
	}
	return a.trustOf("")
}

// trustOf is the same for a stack in the folder dir.
func (a *app) trustOf(dir string) (seller.Trust, error) {
	secrets := a.SecretsDir
	switch {
	case secrets != "":
	case dir != "":
		var err error
		if secrets, err = filepath.Abs(stack.SecretsDir(dir)); err != nil {
			return seller.Trust{}, err
		}
	default:
		secrets = seller.DefaultSecretsDir
	}
	return worker.Trust{SecretsDir: secrets, SecretsEnv: a.SecretsEnv, HTTPHosts: a.HTTPHosts}.Parse()
}

// calling opens warehouses to call with this machine's secrets. It refreshes no token: only workers do.
func (a *app) calling(ctx context.Context, l ledger.Ledger) (ws *wiring.Warehouses, tokens *token.Store, done func(), err error) {
	keys, err := a.tokenKeys()
	if err != nil {
		return nil, nil, nil, err
	}
	if tokens, err = a.tokens(ctx, keys); err != nil {
		return nil, nil, nil, err
	}
	trust, err := a.trust()
	if err != nil {
		tokens.Close()
		return nil, nil, nil, err
	}
	ws = wiring.NewWarehouses(l)
	ws.Trust = trust
	ws.UseTokens(token.Reader{Store: tokens})
	return ws, tokens, func() { ws.Close(); tokens.Close() }, nil
}
