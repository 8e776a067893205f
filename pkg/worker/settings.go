package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/rs/zerolog"

	"stockbridge/pkg/token"
)

// Config is the settings that mean the same in every service.
type Config struct {
	NATSURL   Secret        `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" help:"NATS servers, comma-separated; waited for until one answers"`
	CredsFile string        `env:"NATS_CREDS" help:"file with the NATS user's JWT and key"`
	RedisURL  Secret        `env:"REDIS_URL" help:"redis:// or rediss:// address of the ledger; empty keeps the ledger in JetStream"`
	TokenKey  Secret        `env:"TOKEN_KEY" help:"keys that seal the tokens we refresh: 32 bytes in base64 each, the first seals, all open; the same for all workers"`
	LogLevel  zerolog.Level `env:"LOG_LEVEL" envDefault:"info" help:"trace, debug, info, warn or error"`
	HTTPAddr  string        `env:"HTTP_ADDR" envDefault:":8080" help:"host:port of /healthz, /readyz and /metrics; off for none"`
	Grace     time.Duration `env:"GRACE" envDefault:"40s" help:"how long running work may take to finish after a signal"`
	Trust
	Tracing
}

// Validate names the wrong values. It never repeats an address, which may hold a password.
func (c Config) Validate() error {
	var errs []error
	for one := range strings.SplitSeq(c.NATSURL.Reveal(), ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err != nil || u.Host == "" && u.Opaque == "" && u.Path == "" {
			errs = append(errs, errors.New("NATS_URL: want nats://host:port"))
		}
	}
	if c.RedisURL != "" {
		if u, err := url.Parse(c.RedisURL.Reveal()); err != nil || u.Host == "" || u.Scheme != "redis" && u.Scheme != "rediss" {
			errs = append(errs, errors.New("REDIS_URL: want redis://:password@host:6379/0, or rediss:// for TLS"))
		}
	}
	if _, err := token.ParseKeys(c.TokenKey.Reveal()); err != nil {
		errs = append(errs, fmt.Errorf("TOKEN_KEY: %w", err))
	}
	if c.HTTPAddr != httpOff {
		if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
			errs = append(errs, errors.New("HTTP_ADDR: want host:port, :port or off"))
		}
	}
	if c.Grace <= 0 {
		errs = append(errs, errors.New("GRACE: want more than 0s"))
	}
	errs = append(errs, c.Trust.Validate(), c.Tracing.Validate())
	return errors.Join(errs...)
}

const httpOff = "off"

// Secret is a setting that may hold a password: it prints as ***. It may also be given as the path of a file, in the
// setting of the same name with _FILE behind it.
type Secret string

// Reveal is the text itself.
func (s Secret) Reveal() string { return string(s) }

// Format prints the mask for each verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.mask()) }

// MarshalText makes encoders write the mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.mask()), nil }

func (s Secret) mask() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Settings reads the settings of a service: those of Config and those of C, a struct whose fields have the tags env,
// envDefault and help. A setting comes from its flag (NATS_URL: --nats-url), else from environ, else from the file that
// --config names (lines KEY=VALUE and # comments), else it has its default; an empty value is the default too. Keys and
// flags that are not known are refused. The error names all faults at once, a line each.
//
// A type that has a method Validate() error is asked once the values are read.
func Settings[C any](args, environ []string) (Config, C, error) {
	var base Config
	var own C
	settings := append(settingsOf(&base), settingsOf(&own)...)
	l := loader{settings: map[string]setting{}, values: map[string]string{}}
	for _, s := range settings {
		l.settings[s.key] = s
	}
	flags, file := l.flags(args)
	if file != "" {
		l.merge(l.file(file))
	}
	l.merge(l.environ(environ))
	l.merge(flags)
	l.fill(&base)
	l.fill(&own)
	if len(l.faults) == 0 {
		l.validate(base)
		l.validate(own)
	}
	return base, own, errors.Join(l.faults...)
}

// FromEnvironment is Settings for a service that runs inside another program, which has the flags.
func FromEnvironment[C any]() (C, error) {
	_, own, err := Settings[C](nil, os.Environ())
	return own, err
}

// setting is one field of a settings struct.
type setting struct {
	key, field, byDefault, help string
	secret, boolean             bool
}

func (s setting) flag() string { return flagOf(s.key) }

func flagOf(key string) string { return "--" + strings.ReplaceAll(strings.ToLower(key), "_", "-") }

const fileSuffix = "_FILE"

// settingsOf lists the fields of the struct that c points to.
func settingsOf(c any) []setting {
	return fieldsOf(reflect.TypeOf(c).Elem())
}

func fieldsOf(t reflect.Type) []setting {
	var list []setting
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			list = append(list, fieldsOf(f.Type)...)
		}
		key, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if key == "" {
			continue
		}
		list = append(list, setting{
			key: key, field: f.Name, byDefault: f.Tag.Get("envDefault"), help: f.Tag.Get("help"),
			secret: f.Type == reflect.TypeFor[Secret](), boolean: f.Type.Kind() == reflect.Bool,
		})
	}
	return list
}

// loader gathers values, and faults that repeat none of them.
type loader struct {
	settings map[string]setting
	values   map[string]string
	faults   []error
}

func (l *loader) fault(format string, args ...any) {
	l.faults = append(l.faults, fmt.Errorf(format, args...))
}

// known finds a setting by its key, or by its key with _FILE appended.
func (l *loader) known(key string) (s setting, isFile, ok bool) {
	if s, ok = l.settings[key]; ok {
		return s, false, true
	}
	s, ok = l.settings[strings.TrimSuffix(key, fileSuffix)]
	return s, true, ok && s.secret
}

// layer is the values of one source, by key.
type layer struct {
	name   string
	values map[string]string
}

// merge puts a layer over the earlier ones.
func (l *loader) merge(from layer) {
	for _, key := range slices.Sorted(maps.Keys(from.values)) {
		value := from.values[key]
		s, isFile, _ := l.known(key)
		if value == "" {
			continue
		}
		if isFile {
			if from.values[s.key] != "" {
				l.fault("%s: %s and %s are both given", from.name, s.key, key)
			}
			text, err := os.ReadFile(value)
			if err != nil {
				l.fault("%s: %s: %w", from.name, key, err)
				continue
			}
			value = strings.TrimSpace(string(text))
		}
		l.values[s.key] = value
	}
}

func (l *loader) flags(args []string) (flags layer, file string) {
	keys := map[string]string{}
	for key, s := range l.settings {
		keys[s.flag()] = key
		if s.secret {
			keys[flagOf(key+fileSuffix)] = key + fileSuffix
		}
	}
	flags = layer{"flags", map[string]string{}}
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		key, ok := keys[name]
		switch {
		case !strings.HasPrefix(name, "--"):
			l.fault("%q is no flag; --help lists them", name)
			continue
		case !ok && name != configFlag:
			l.fault("unknown flag %s; --help lists them", name)
			continue
		case given:
		case l.settings[key].boolean:
			value = "true"
		case i+1 < len(args):
			i++
			value = args[i]
		default:
			l.fault("%s needs a value", name)
			continue
		}
		if name == configFlag {
			file = value
		} else {
			flags.values[key] = value
		}
	}
	return flags, file
}

const configFlag = "--config"

func (l *loader) environ(environ []string) layer {
	e := layer{"environment", map[string]string{}}
	for _, pair := range environ {
		key, value, _ := strings.Cut(pair, "=")
		if _, _, ok := l.known(key); ok {
			e.values[key] = value
		}
	}
	return e
}

// maxFile is the most that is read of a settings file, bytes.
const maxFile = 1 << 20

func (l *loader) file(name string) layer {
	from := layer{name, map[string]string{}}
	f, err := os.Open(name)
	if err != nil {
		l.fault("%s: %w", configFlag, err)
		return from
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxFile))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch _, _, known := l.known(key); {
		case !ok:
			l.fault("%s:%d: want KEY=VALUE", name, n)
		case !known:
			l.fault("%s:%d: unknown key %s; --help lists them", name, n, key)
		case has(from.values, key):
			l.fault("%s:%d: %s is given twice", name, n, key)
		case strings.ContainsAny(value, `"'`) || strings.Contains(value, " #"):
			// Readers of such files disagree on what these mean.
			l.fault("%s:%d: %s: no quotes, and comments on lines of their own", name, n, key)
		default:
			from.values[key] = value
		}
	}
	if err := lines.Err(); err != nil {
		l.fault("%s: %w", name, err)
	}
	return from
}

func has(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

// fill parses the values into the struct that c points to.
func (l *loader) fill(c any) {
	err := env.ParseWithOptions(c, env.Options{Environment: l.values})
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			l.fault("%w", err)
		}
		return
	}
	for _, err := range all.Errors {
		var parse env.ParseError
		if !errors.As(err, &parse) {
			l.faults = append(l.faults, err)
			continue
		}
		for _, s := range settingsOf(c) {
			if s.field == parse.Name {
				l.fault("%s: %q is no %s", s.key, l.values[s.key], kindOf(parse.Type))
			}
		}
	}
}

func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration such as 500ms, 30s or 5m"
	case t == reflect.TypeFor[zerolog.Level]():
		return "log level (trace, debug, info, warn, error)"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "number"
	default:
		return "whole number"
	}
}

func (l *loader) validate(c any) {
	if v, ok := c.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			l.faults = append(l.faults, err)
		}
	}
}

// usage prints the table of settings of a service with the settings C.
func usage[C any](to io.Writer, name string) {
	var base Config
	var own C
	fmt.Fprintf(to, "Usage: %s [--config FILE] [--setting VALUE ...]\n\n", name)
	fmt.Fprintf(to, "A setting is a flag, else an environment variable, else a line KEY=VALUE of FILE.\n")
	fmt.Fprintf(to, "%s asks the one that runs here with the same settings whether it lives: it ends 0 or 1.\n\n", healthFlag)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SETTING\tFLAG\tDEFAULT\tMEANING")
	for _, s := range append(settingsOf(&own), settingsOf(&base)...) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.key, s.flag(), s.byDefault, s.help)
		if s.secret {
			fmt.Fprintf(table, "%s\t%s\t\tfile that holds it\n", s.key+fileSuffix, flagOf(s.key+fileSuffix))
		}
	}
	_ = table.Flush() // a closed pipe wants no output
}
