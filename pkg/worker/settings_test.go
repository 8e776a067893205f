package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
)

type packerConfig struct {
	Slots int           `env:"PACK_SLOTS" envDefault:"32" help:"parcels in hand"`
	Rest  time.Duration `env:"PACK_REST" envDefault:"5m" help:"pause for tea"`
	Rate  float64       `env:"PACK_RATE" envDefault:"1.5" help:"parcels a second"`
	Loud  bool          `env:"PACK_LOUD" help:"sing"`
	Key   worker.Secret `env:"PACK_KEY" help:"key of the packing room"`
}

func (c packerConfig) Validate() error {
	if c.Slots < 1 {
		return fmt.Errorf("PACK_SLOTS: want at least 1")
	}
	return nil
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "settings.env")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestASettingComesFromFlagEnvironmentFileOrDefault(t *testing.T) {
	key := write(t, "from a file\n")
	base := worker.Config{NATSURL: "nats://127.0.0.1:4222", LogLevel: zerolog.InfoLevel, HTTPAddr: ":8080", Grace: 40 * time.Second,
		Trust:   worker.Trust{SecretsDir: seller.DefaultSecretsDir, SecretsEnv: seller.DefaultSecretsEnv},
		Tracing: worker.Tracing{Sampler: "parentbased_always_on", SamplerArg: "1.0"}}
	own := packerConfig{Slots: 32, Rest: 5 * time.Minute, Rate: 1.5}
	for _, test := range []struct {
		name    string
		file    string
		environ []string
		args    []string
		want    func(*worker.Config, *packerConfig)
	}{
		{"defaults", "", nil, nil, func(*worker.Config, *packerConfig) {}},
		{"a file", "# packing\n\nPACK_SLOTS=4\r\n PACK_REST = 30s \nREDIS_URL=redis://:p@h:6379/0\n", nil, nil, func(b *worker.Config, o *packerConfig) {
			o.Slots, o.Rest, b.RedisURL = 4, 30*time.Second, "redis://:p@h:6379/0"
		}},
		{"the environment wins over the file, and has other things too", "PACK_SLOTS=4\nPACK_RATE=2\n", []string{"PACK_SLOTS=5", "HOME=/root", "PACK_SLOT=6"}, nil,
			func(_ *worker.Config, o *packerConfig) { o.Slots, o.Rate = 5, 2 }},
		{"a flag wins over both", "PACK_SLOTS=4\n", []string{"PACK_SLOTS=5"}, []string{"--pack-slots=6", "--log-level", "debug", "--pack-loud", "--http-addr=off"},
			func(b *worker.Config, o *packerConfig) {
				o.Slots, o.Loud, b.LogLevel, b.HTTPAddr = 6, true, zerolog.DebugLevel, "off"
			}},
		{"an empty value is the default", "PACK_SLOTS=\n", []string{"NATS_URL=", "PACK_RATE="}, []string{"--pack-rest="}, func(*worker.Config, *packerConfig) {}},
		{"a secret in a file", "PACK_KEY_FILE=" + key, nil, nil, func(_ *worker.Config, o *packerConfig) { o.Key = "from a file" }},
		{"a secret wins over a file of lower rank", "PACK_KEY_FILE=" + key, []string{"PACK_KEY=x"}, nil, func(_ *worker.Config, o *packerConfig) { o.Key = "x" }},
		{"and a file over a secret of lower rank", "PACK_KEY=x", nil, []string{"--pack-key-file", key}, func(_ *worker.Config, o *packerConfig) { o.Key = "from a file" }},
		{"several servers", "NATS_URL=nats://a:4222,tls://b:4222", nil, nil, func(b *worker.Config, _ *packerConfig) { b.NATSURL = "nats://a:4222,tls://b:4222" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := test.args
			if test.file != "" {
				args = append([]string{"--config", write(t, test.file)}, args...)
			}
			gotBase, gotOwn, err := worker.Settings[packerConfig](args, test.environ)
			if err != nil {
				t.Fatal(err)
			}
			wantBase, wantOwn := base, own
			test.want(&wantBase, &wantOwn)
			plain := cmp.Options{cmp.Transformer("reveal", worker.Secret.Reveal), cmp.AllowUnexported(packerConfig{})}
			if diff := cmp.Diff(wantBase, gotBase, plain); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantOwn, gotOwn, plain); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllFaultsOfSettingsAreNamedAtOnce(t *testing.T) {
	file := write(t, "PACK_SLOT=4\nPACK_RATE\nPACK_REST=1m # tea\nPACK_SLOTS=3\nPACK_SLOTS=3\nPACK_LOUD='true'\n")
	_, _, err := worker.Settings[packerConfig](
		[]string{"--config", file, "--pack-slut=3", "extra", "--log-level=loud", "--pack-key-file=/nonexistent", "--pack-rate"},
		[]string{"PACK_REST=soon", "PACK_LOUD=perhaps", "PACK_KEY=planted", "REDIS_URL=x:planted", "REDIS_URL_FILE=y"})
	if err == nil {
		t.Fatal("no fault found")
	}
	got := strings.ReplaceAll(err.Error(), file, "FILE")
	want := `unknown flag --pack-slut; --help lists them
"extra" is no flag; --help lists them
--pack-rate needs a value
FILE:1: unknown key PACK_SLOT; --help lists them
FILE:2: want KEY=VALUE
FILE:3: PACK_REST: no quotes, and comments on lines of their own
FILE:5: PACK_SLOTS is given twice
FILE:6: PACK_LOUD: no quotes, and comments on lines of their own
environment: REDIS_URL and REDIS_URL_FILE are both given
environment: REDIS_URL_FILE: open y: no such file or directory
flags: PACK_KEY_FILE: open /nonexistent: no such file or directory
LOG_LEVEL: "loud" is no log level (trace, debug, info, warn, error)
PACK_REST: "soon" is no duration such as 500ms, 30s or 5m
PACK_LOUD: "perhaps" is no true or false`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	_, _, err = worker.Settings[packerConfig](
		[]string{"--http-addr=8080", "--grace=-1s", "--redis-url=redis://:planted", "--nats-url=nats://u:planted@h:x", "--pack-slots=0"}, nil)
	want = `NATS_URL: want nats://host:port
REDIS_URL: want redis://:password@host:6379/0, or rediss:// for TLS
HTTP_ADDR: want host:port, :port or off
GRACE: want more than 0s
PACK_SLOTS: want at least 1`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}

	if _, _, err = worker.Settings[packerConfig]([]string{"--config=/nonexistent"}, nil); err == nil || err.Error() != "--config: open /nonexistent: no such file or directory" {
		t.Error(err)
	}
}

func TestASecretPrintsAsAMask(t *testing.T) {
	c := struct {
		Key   worker.Secret
		Inner []any
	}{"planted", []any{worker.Secret("planted"), map[string]worker.Secret{"k": "planted"}}}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	logger := zerolog.New(&log)
	logger.Info().Any("config", c).Interface("key", c.Key).Stringer("s", stringer{c.Key}).Msg("")
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q %x %d", c, c, c.Key, c.Key, c.Key, c.Key), string(raw), log.String(), fmt.Errorf("x: %v", c.Key).Error()} {
		if strings.Contains(text, "planted") || strings.Contains(text, "706c616e746564") {
			t.Errorf("%s", text)
		}
	}
	if fmt.Sprint(worker.Secret("")) != "" {
		t.Error("an empty secret is shown as one")
	}
}

// A settings file may hold anything an editor leaves: it is read or the fault is named, and nothing of it is
// repeated.
func FuzzSettingsFile(f *testing.F) {
	f.Add("NATS_URL=nats://nats:4222\n# a comment\nPACK_SLOTS=5\n")
	f.Add("PACK_KEY=\"planted\"\nPACK_KEY=planted\n=planted\n\xff\x00=planted")
	f.Fuzz(func(t *testing.T, text string) {
		_, own, err := worker.Settings[packerConfig]([]string{"--config", write(t, text+"\nPACK_KEY=planted\n")}, nil)
		switch {
		case err == nil && own.Key.Reveal() != "planted":
			t.Error("read without an error, and the last line is not there")
		case err != nil && strings.Contains(err.Error(), "planted") && !strings.Contains(text, "planted"):
			t.Errorf("repeats a secret: %v", err)
		}
	})
}

type stringer struct{ s worker.Secret }

func (s stringer) String() string { return fmt.Sprint(s.s) }

func TestHelpListsTheSettingsWithoutSecrets(t *testing.T) {
	var out bytes.Buffer
	err := worker.Run(t.Context(), packer(func(context.Context, *worker.Shell, packerConfig) error {
		t.Error("it ran")
		return nil
	}), []string{"--help"}, []string{"NATS_URL=nats://u:planted@h"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Usage: packer", "PACK_SLOTS", "--pack-slots", "32", "parcels in hand", "PACK_KEY_FILE", "--redis-url-file", "nats://127.0.0.1:4222"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "planted") {
		t.Error("help shows values")
	}
}
