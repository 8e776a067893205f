package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/wiring"
	"stockbridge/pkg/worker"
)

const (
	// defaultURL is where `up` listens.
	defaultURL = "nats://127.0.0.1:4222"
	// usualData is the default data folder of `up`, relative to the current folder.
	usualData = "./data"
	// connectLimit bounds how long a command waits for the broker.
	connectLimit = 5 * time.Second
)

// Config is the settings that all commands share.
type Config struct {
	NATSURL   worker.Secret `name:"nats-url" env:"NATS_URL" placeholder:"URL" help:"Broker to work with (default ${nats_url}; up runs its own when this is not set)."`
	NATSCreds string        `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials of the broker's user."`
	RedisURL  worker.Secret `name:"redis-url" env:"REDIS_URL" placeholder:"URL" help:"Ledger in Redis; when not set it is the broker's key-value store."`
	// TokenKey and its file are for commands that need tokens; their help describes them.
	TokenKey     worker.Secret `name:"token-key" hidden:"" env:"TOKEN_KEY"`
	TokenKeyFile string        `name:"token-key-file" hidden:"" env:"TOKEN_KEY_FILE"`
	// SecretsDir, SecretsEnv and HTTPHosts are the workers' settings of the same names, for commands that call a
	// warehouse with this machine's secrets.
	SecretsDir string `name:"seller-secrets-dir" hidden:"" env:"SELLER_SECRETS_DIR"`
	SecretsEnv string `name:"seller-secrets-env" hidden:"" env:"SELLER_SECRETS_ENV" default:"JD_"`
	HTTPHosts  string `name:"seller-http-hosts" hidden:"" env:"SELLER_HTTP_HOSTS"`
	Output     string `name:"output" short:"o" enum:"table,json" default:"table" placeholder:"table|json" help:"How to print the answer."`
	Lang       string `name:"lang" enum:"zh,en," default:"" env:"BRIDGECTL_LANG" placeholder:"zh|en" help:"Language of reasons (default: the locale's)."`
	Who        string `name:"who" env:"BRIDGECTL_USER" placeholder:"NAME" help:"Who is acting, kept with what is done (default user@host)."`
	// Log is accepted from older scripts and ignored: acts are recorded on the bus now.
	Log string `name:"log" hidden:""`

	Locale  string `name:"locale" hidden:"" env:"LC_ALL,LC_MESSAGES,LANG"`
	Columns int    `name:"columns" hidden:"" env:"COLUMNS" help:"Width of the terminal."`
	// These two are for up; its help describes them.
	HTTPAddr string `name:"http-addr" hidden:"" env:"HTTP_ADDR" default:"127.0.0.1:8080"`
	LogLevel string `name:"log-level" hidden:"" env:"LOG_LEVEL" default:"info"`
}

// app is the context that commands share.
type app struct {
	*Config
	Streams
	now func() time.Time
	// lang is "zh" or "en".
	lang string
	// columns is the terminal's width; 0 when a program reads the output.
	columns int

	opened       *bus.Bus
	openedLedger ledger.Ledger
}

// settle fills in defaults for settings that were not given.
func (a *app) settle() {
	a.lang = a.Lang
	if a.lang == "" {
		a.lang = "en"
		if strings.HasPrefix(strings.ToLower(a.Locale), "zh") {
			a.lang = "zh"
		}
	}
	if a.Log != "" {
		a.note("--log is no longer used: what operators do is recorded for all to see, `bridgectl acts ls`")
	}
	a.columns = a.Columns
	if f, ok := a.Out.(*os.File); ok && a.columns == 0 {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			a.columns = width
		}
	}
	if a.Who == "" {
		host, _ := os.Hostname()
		name := "unknown"
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
		a.Who = name + "@" + host
	}
}

// bus connects to the broker, once.
func (a *app) bus(ctx context.Context) (*bus.Bus, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	address := a.NATSURL.Reveal()
	if address == "" {
		address = defaultURL
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Options{URL: address, Name: "bridgectl", CredsFile: a.NATSCreds, Log: zerolog.New(a.Err).Level(zerolog.WarnLevel)})
	if err != nil {
		return nil, hint(err, "is a broker running at %s? `bridgectl up` starts one; --nats-url or NATS_URL name another", hostsOf(address))
	}
	a.opened = b
	return b, nil
}

// hostsOf names the servers in addresses, which may hold passwords.
func hostsOf(addresses string) string {
	var hosts []string
	for address := range strings.SplitSeq(addresses, ",") {
		if u, err := url.Parse(strings.TrimSpace(address)); err == nil && u.Host != "" {
			hosts = append(hosts, u.Host)
		} else {
			hosts = append(hosts, "an address that cannot be read")
		}
	}
	return strings.Join(hosts, ", ")
}

func (a *app) close() {
	if a.openedLedger != nil {
		if err := a.openedLedger.Close(); err != nil {
			a.note("close the ledger: %v", err)
		}
	}
	if a.opened != nil {
		a.opened.Close()
	}
}

// show prints an answer: v as JSON, or the text of asText.
func (a *app) show(v any, asText func(w io.Writer) error) error {
	if a.Output != "json" {
		return asText(a.Out)
	}
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// note prints progress for a person; it is not part of the answer.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.Err, clean(fmt.Sprintf(format, args...)))
}

// when formats a time for people: in their zone, to the second.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// ledger opens the ledger, once.
func (a *app) ledger(ctx context.Context) (ledger.Ledger, error) {
	if a.openedLedger != nil {
		return a.openedLedger, nil
	}
	b, err := a.bus(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	l, err := wiring.Ledger(ctx, a.RedisURL.Reveal(), b)
	if err != nil {
		return nil, hint(fmt.Errorf("open the ledger: %w", err), "--redis-url or REDIS_URL must be the workers'; without it the ledger is the broker's key-value store")
	}
	a.openedLedger = l
	return l, nil
}
