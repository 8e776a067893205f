//go:build unix

package main

import (
	"context"
	"crypto/md5" //nolint:gosec // the signature that JD asks for
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
)

// Names that the pipeline and its driver share; its orders lie apart from those of the bare loop.
const (
	pipelineConsumer = "bench-pipeline"
	pipelineStream   = "BENCHPIPELINE"
	pipelineSubject  = "benchpipeline.order"
)

// pipeline is a stand-in for a general stream processor that does the push: it mirrors what Redpanda Connect does for each
// message in a pipeline of nats_jetstream input, dedupe, mapping, http, mapping and nats_jetstream output, with its defaults.
// It is our own code and not that program.
//
// Mirrored, by its documentation and its public source:
//   - the input is bound to a durable pull consumer and fetches one message at a time. Each header and each number of the
//     delivery becomes a metadata entry.
//   - dedupe: one add to a Redis cache for each message, which is SET NX with an expiry.
//   - a mapping reads JSON as maps, copies the message, sets one path after the other by what was parsed at the start, and
//     leaves JSON again.
//   - the signature is computed over the parameters; http posts them as a form, with Go's default transport, which keeps two
//     idle connections a host.
//   - the output runs beside the processors, publishes with headers and waits for the store's answer, one message a call;
//     then the input acks, without waiting.
//   - each component counts messages and takes its time, as Prometheus counters and summaries.
//   - as many messages are in flight as with the worker and the bare loop (pipeline.threads, max_in_flight).
//   - Go's default garbage collection.
//
// Not mirrored: the rest of its interpreter and of its wrapping of messages into batches and transactions, its tracing and its
// logging. So the program itself uses more CPU than this, by how much is not known.
//
// Like that pipeline it validates nothing, asks for no turn in a quota, and loses an order that it dies with after the
// dedupe.
func pipeline(ctx context.Context) error {
	text, err := os.ReadFile(os.Getenv("BENCH_SETUP"))
	if err != nil {
		return err
	}
	setup, err := seller.Parse(text)
	if err != nil {
		return err
	}
	account := setup.Accounts[0]
	p := &piped{gateway: account.Url, appKey: account.AppKey, client: &http.Client{Timeout: 5 * time.Second}, metrics: newPipedMetrics()}
	for file, into := range map[string]*string{account.AppSecret.GetFile(): &p.secret, account.AccessToken.GetFile(): &p.token} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		*into = strings.TrimSpace(string(raw))
	}
	p.request = orderMapping(account.Department, account.VendorSource)
	p.outcome = outcomeMapping()
	settings, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		return errors.New("REDIS_URL is no URL of a Redis")
	}
	p.redis = redis.NewClient(settings)
	defer p.redis.Close()
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	if p.js, err = nc.JetStream(); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: pipelineStream, Subjects: []string{pipelineSubject + ".*"}}); err != nil {
		return err
	}
	if _, err = js.CreateOrUpdateConsumer(ctx, pipelineStream, jetstream.ConsumerConfig{
		Durable: pipelineConsumer, FilterSubject: pipelineSubject + ".*", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: 20_000,
	}); err != nil {
		return err
	}
	bound, err := p.js.PullSubscribe(pipelineSubject+".*", pipelineConsumer, nats.ManualAck(), nats.Bind(pipelineStream, pipelineConsumer))
	if err != nil {
		return err
	}
	in, out := make(chan *nats.Msg), make(chan published)
	var threads, writers sync.WaitGroup
	for range inFlight {
		threads.Go(func() {
			for m := range in {
				if err := p.process(ctx, m, out); err != nil {
					fmt.Fprintln(os.Stderr, "pipeline:", err)
				}
			}
		})
		writers.Go(func() {
			for o := range out {
				if err := p.write(ctx, o); err != nil {
					fmt.Fprintln(os.Stderr, "pipeline:", err)
				}
			}
		})
	}
	var reading sync.WaitGroup
	reading.Go(func() { p.read(ctx, bound, in) })
	err = serve(ctx, nil)
	reading.Wait()
	close(in)
	threads.Wait()
	close(out)
	writers.Wait()
	return err
}

type piped struct {
	js                             nats.JetStreamContext
	redis                          *redis.Client
	client                         *http.Client
	gateway, appKey, secret, token string
	request, outcome               mapping
	metrics                        pipedMetrics
}

// published is an outcome on its way to the output, with the message that it answers.
type published struct{ m, of *nats.Msg }

// read is the input: one message after the other until ctx ends.
func (p *piped) read(ctx context.Context, from *nats.Subscription, to chan<- *nats.Msg) {
	for ctx.Err() == nil {
		done := p.metrics.begin("input")
		list, err := from.Fetch(1, nats.Context(ctx))
		if err != nil || len(list) == 0 {
			continue // nothing came for a while
		}
		done()
		select {
		case to <- list[0]:
		case <-ctx.Done():
		}
	}
}

// process takes one message through the processors.
func (p *piped) process(ctx context.Context, m *nats.Msg, out chan<- published) error {
	meta := metadataOf(m)
	var order map[string]any
	if err := json.Unmarshal(m.Data, &order); err != nil {
		return err
	}
	no, name := text(order["outbound_no"]), text(order["seller"])

	done := p.metrics.begin("dedupe")
	added, err := p.redis.SetNX(ctx, "dedupe:"+name+"/"+no, "t", time.Hour).Result()
	if done(); err != nil {
		return err
	}
	if !added {
		return m.Ack()
	}

	done = p.metrics.begin("request")
	form, query, err := p.sign(p.request.apply(order))
	if done(); err != nil {
		return err
	}
	done = p.metrics.begin("http")
	answer, err := p.post(ctx, form, query)
	if done(); err != nil {
		return err
	}

	done = p.metrics.begin("outcome")
	now := time.Now()
	order = cloned(order).(map[string]any)
	order["answer"], order["now"] = answer, now.UTC().Format(time.RFC3339Nano)
	outcome := p.outcome.apply(order)
	if text(dig(outcome, "ref", "warehouse_no")) == "" {
		return fmt.Errorf("%s: no number", no)
	}
	id := strings.Join([]string{event.OrderAccepted.Name, name, no, text(order["revision"])}, "/")
	o := nats.NewMsg(event.OrderAccepted.Name + "." + name)
	o.Data, err = json.Marshal(outcome)
	for _, h := range [][2]string{
		{event.HeaderSpec, "1.0"}, {event.HeaderID, id}, {event.HeaderType, event.OrderAccepted.Name}, {event.HeaderSource, "bench"}, {event.HeaderSubject, no},
		{event.HeaderTime, now.Format(time.RFC3339Nano)}, {event.HeaderContentType, meta[event.HeaderContentType]}, {jetstream.MsgIDHeader, id},
	} {
		o.Header.Add(h[0], h[1])
	}
	if done(); err != nil {
		return err
	}
	select {
	case out <- published{o, m}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the output, and the ack that follows.
func (p *piped) write(ctx context.Context, o published) error {
	done := p.metrics.begin("output")
	_, err := p.js.PublishMsg(o.m, nats.Context(ctx))
	if done(); err != nil {
		return err
	}
	return o.of.Ack()
}

// metadataOf is what the input knows of a message besides its body.
func metadataOf(m *nats.Msg) map[string]string {
	meta := map[string]string{"nats_subject": m.Subject}
	if d, err := m.Metadata(); err == nil {
		meta["nats_sequence_stream"] = strconv.FormatUint(d.Sequence.Stream, 10)
		meta["nats_sequence_consumer"] = strconv.FormatUint(d.Sequence.Consumer, 10)
		meta["nats_num_delivered"] = strconv.FormatUint(d.NumDelivered, 10)
		meta["nats_num_pending"] = strconv.FormatUint(d.NumPending, 10)
		meta["nats_domain"] = d.Domain
		meta["nats_timestamp_unix_nano"] = strconv.FormatInt(d.Timestamp.UnixNano(), 10)
	}
	for k := range m.Header {
		if v := m.Header.Get(k); v != "" {
			meta[k] = v
		}
	}
	return meta
}

// mapping is a list of assignments.
type mapping []assignment

type assignment struct {
	to   []string
	from func(in any) any
}

// apply makes a message of in, which it leaves alone.
func (a mapping) apply(in map[string]any) map[string]any {
	in, _ = cloned(in).(map[string]any)
	out := map[string]any{}
	for _, one := range a {
		v := one.from(in)
		at := out
		for _, name := range one.to[:len(one.to)-1] {
			next, ok := at[name].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[name] = next
			}
			at = next
		}
		at[one.to[len(one.to)-1]] = v
	}
	return out
}

// path reads a field of the input.
func path(name string) func(any) any {
	names := strings.Split(name, ".")
	return func(in any) any { return dig(in, names...) }
}

// constant is the same for all messages.
func constant(v string) func(any) any { return func(any) any { return v } }

// joined reads a field of each element of a list, joined by commas.
func joined(list, field string) func(any) any {
	at, of := path(list), path(field)
	return func(in any) any {
		all, _ := at(in).([]any)
		texts := make([]any, len(all))
		for i, one := range all {
			texts[i] = of(one)
		}
		var joined []string
		for _, one := range texts {
			joined = append(joined, text(one))
		}
		return strings.Join(joined, ",")
	}
}

// orderMapping makes JD's order of ours.
func orderMapping(department, source string) (all mapping) {
	for _, one := range []struct {
		to   string
		from func(any) any
	}{
		{"isvUUID", path("outbound_no")}, {"isvSource", constant(source)}, {"departmentNo", constant(department)}, {"shopNo", constant("ESP0020000000001")},
		{"warehouseNo", constant("110006341")}, {"salesPlatformOrderNo", joined("platform_order_nos", "")}, {"salePlatformSource", constant("2")},
		{"salesPlatformCreateTime", path("ordered_at")}, {"orderMark", constant(strings.Repeat("0", 50))}, {"consigneeName", path("receiver.name")},
		{"consigneeMobile", path("receiver.mobile")}, {"consigneeAddress", path("receiver.address")}, {"addressProvince", path("receiver.province")},
		{"addressCity", path("receiver.city")}, {"addressCounty", path("receiver.county")}, {"goodsNo", joined("lines", "warehouse_goods_no")},
		{"isvGoodsNo", joined("lines", "goods_code")}, {"quantity", joined("lines", "quantity")}, {"price", joined("lines", "price")},
		{"orderLine", joined("lines", "line_id")},
	} {
		all = append(all, assignment{[]string{one.to}, one.from})
	}
	return all
}

// outcomeMapping makes our event of our order with JD's answer in it.
func outcomeMapping() (all mapping) {
	for _, name := range []string{"seller", "shop", "warehouse", "order_no", "outbound_no", "revision"} {
		all = append(all, assignment{[]string{"ref", name}, path(name)})
	}
	return append(all,
		assignment{[]string{"ref", "warehouse_no"}, path("answer.jingdong_eclp_order_addOrder_responce.eclpSoNo")},
		assignment{[]string{"ref", "kind"}, constant("order")}, assignment{[]string{"ref", "no"}, path("outbound_no")}, assignment{[]string{"at"}, path("now")},
	)
}

// cloned copies a JSON value.
func cloned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for name, one := range v {
			c[name] = cloned(one)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, one := range v {
			c[i] = cloned(one)
		}
		return c
	default:
		return v
	}
}

// sign makes the call of an order: what is in the URL, and what is posted.
func (p *piped) sign(order map[string]any) (form, query url.Values, err error) {
	param, err := json.Marshal(order)
	if err != nil {
		return nil, nil, err
	}
	params := map[string]string{
		"method": "jingdong.eclp.order.addOrder", "app_key": p.appKey, "access_token": p.token, "v": "2.0",
		"timestamp": time.Now().Format("2006-01-02 15:04:05.000-0700"), "360buy_param_json": string(param),
	}
	var signed strings.Builder
	signed.WriteString(p.secret)
	for _, key := range slices.Sorted(maps.Keys(params)) {
		signed.WriteString(key + params[key])
	}
	signed.WriteString(p.secret)
	sum := md5.Sum([]byte(signed.String())) //nolint:gosec // as above
	form, query = url.Values{"sign": {strings.ToUpper(hex.EncodeToString(sum[:]))}}, url.Values{}
	for key, value := range params {
		if key == "360buy_param_json" {
			form.Set(key, value)
		} else {
			query.Set(key, value)
		}
	}
	return form, query, nil
}

// post calls, and decodes the answer.
func (p *piped) post(ctx context.Context, form, query url.Values) (answer map[string]any, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.gateway+"?"+query.Encode(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8")
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	return answer, json.Unmarshal(body, &answer)
}

// pipedMetrics are those of each component.
type pipedMetrics map[string]pipedMetric

type pipedMetric struct {
	received, sent prometheus.Counter
	took           prometheus.Summary
}

func newPipedMetrics() pipedMetrics {
	all := pipedMetrics{}
	for _, name := range []string{"input", "dedupe", "request", "http", "outcome", "output"} {
		all[name] = pipedMetric{
			prometheus.NewCounter(prometheus.CounterOpts{Name: name + "_received"}), prometheus.NewCounter(prometheus.CounterOpts{Name: name + "_sent"}),
			prometheus.NewSummary(prometheus.SummaryOpts{Name: name + "_latency_ns", Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001}}),
		}
	}
	return all
}

// begin counts a message in; the function that it returns counts it out.
func (p pipedMetrics) begin(component string) func() {
	m, began := p[component], time.Now()
	m.received.Inc()
	return func() {
		m.sent.Inc()
		m.took.Observe(float64(time.Since(began).Nanoseconds()))
	}
}

// text is a JSON value as text, "" for none.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// dig follows names into a JSON object; an empty name stays.
func dig(v any, names ...string) any {
	for _, name := range names {
		if name == "" {
			continue
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}
