package worker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/trace"
)

// Tracing says where spans go, in the names of OpenTelemetry's specification. The library reads the rest of the
// specification (OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…, OTEL_EXPORTER_OTLP_CERTIFICATE and so on) from the environment
// itself.
type Tracing struct {
	Endpoint    string `env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"where traces go by OTLP over HTTP, such as http://collector:4318; empty for none"`
	Headers     Secret `env:"OTEL_EXPORTER_OTLP_HEADERS" help:"key=value,… that the collector wants to see, such as its token"`
	ServiceName string `env:"OTEL_SERVICE_NAME" help:"name of the service in traces; empty for its own"`
	Sampler     string `env:"OTEL_TRACES_SAMPLER" envDefault:"parentbased_always_on" help:"which traces: parentbased_always_on, parentbased_traceidratio, always_on, always_off, traceidratio …"`
	SamplerArg  string `env:"OTEL_TRACES_SAMPLER_ARG" envDefault:"1.0" help:"share of traces for …traceidratio, 0 to 1"`
}

// Validate names the wrong values.
func (t Tracing) Validate() error {
	var errs []error
	if t.Endpoint != "" {
		if u, err := url.Parse(t.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want http://host:4318 or https://host:4318"))
		}
	}
	if _, err := t.headers(); err != nil {
		errs = append(errs, err)
	}
	if _, err := t.sampler(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (t Tracing) headers() (map[string]string, error) {
	headers := map[string]string{}
	for pair := range strings.SplitSeq(t.Headers.Reveal(), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		plain, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS: want key=value, comma-separated, values percent-encoded")
		}
		headers[key] = plain
	}
	return headers, nil
}

func (t Tracing) sampler() (sdktrace.Sampler, error) {
	share, err := strconv.ParseFloat(t.SamplerArg, 64)
	if err != nil || !(share >= 0 && share <= 1) {
		return nil, errors.New("OTEL_TRACES_SAMPLER_ARG: want a number from 0 to 1")
	}
	name, parent := strings.CutPrefix(t.Sampler, "parentbased_")
	var s sdktrace.Sampler
	switch name {
	case "always_on":
		s = sdktrace.AlwaysSample()
	case "always_off":
		s = sdktrace.NeverSample()
	case "traceidratio":
		s = sdktrace.TraceIDRatioBased(share)
	default:
		return nil, errors.New("OTEL_TRACES_SAMPLER: want always_on, always_off or traceidratio, each also with parentbased_ before it")
	}
	if parent {
		s = sdktrace.ParentBased(s)
	}
	return s, nil
}

// TracingFromEnvironment reads the settings of a program that is no service.
func TracingFromEnvironment() (Tracing, error) {
	l := loader{settings: map[string]setting{}, values: map[string]string{}}
	var t Tracing
	for _, s := range settingsOf(&t) {
		l.settings[s.key] = s
	}
	l.merge(l.environ(os.Environ()))
	l.fill(&t)
	if len(l.faults) == 0 {
		l.validate(t)
	}
	return t, errors.Join(l.faults...)
}

// closeTracesTimeout is how long flushing the last spans may take.
const closeTracesTimeout = 3 * time.Second

// Open makes the provider of spans; nil when they go nowhere. When the collector is down its spans are lost and
// nothing else: they wait in a bounded queue. closeTraces flushes the rest.
func (t Tracing) Open(ctx context.Context, service string, log zerolog.Logger) (traces oteltrace.TracerProvider, closeTraces func(), err error) {
	if t.Endpoint == "" {
		return nil, func() {}, nil
	}
	headers, err := t.headers()
	if err != nil {
		return nil, nil, err
	}
	sampler, err := t.sampler()
	if err != nil {
		return nil, nil, err
	}
	at, err := url.JoinPath(t.Endpoint, "v1", "traces")
	if err != nil {
		return nil, nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want http://host:4318 or https://host:4318")
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(at), otlptracehttp.WithHeaders(headers))
	if err != nil {
		return nil, nil, fmt.Errorf("open traces: %w", err)
	}
	if t.ServiceName != "" {
		service = t.ServiceName
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service)), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, nil, fmt.Errorf("open traces: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// The library reports background errors only here, for the whole process.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn().Err(err).Msg("traces are lost") }))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sampler), sdktrace.WithIDGenerator(trace.IDs{}), sdktrace.WithResource(about),
	)
	return provider, func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTracesTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn().Err(err).Msg("the last traces are lost")
		}
	}, nil
}
