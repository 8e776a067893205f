//go:build unix

package main

import (
	"bytes"
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
	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
)

// Names that the pipeline and its driver share; its orders lie apart from those of the bare loop.
const (
	pipelineConsumer = "bench-pipeline"
	pipelineStream   = "BENCHPIPELINE"
	pipelineSubject  = "benchpipeline.order"
	// pipelinePrefetch is the default of max_ack_pending.
	pipelinePrefetch = 1024
)

// pipeline is a stand-in for a general stream processor that does the push: it mirrors what Redpanda Connect does for each
// message in a pipeline of nats_jetstream input, dedupe, mapping, http, mapping and nats_jetstream output. It is our own
// code and not that program.
//
// Mirrored, by its documentation and its public source:
//   - the input subscribes with a push consumer, max_ack_pending 1024, manual acks: its quicker form, for bound pull
//     consumers it fetches one message at a time. Each header and each number of the delivery becomes a metadata entry.
//   - dedupe: one `add` to a Redis cache for each message, which is SET NX with an expiry.
//   - the mappings work on JSON decoded into maps, and write JSON from maps.
//   - the signature is computed over the parameters, and the http processor posts them as a form and reads the answer.
//   - the output publishes with headers and waits for the store's answer, one message a call; then the input acks, without
//     waiting.
//   - as many messages are in flight as with the worker and the bare loop (pipeline.threads).
//
// Not mirrored: the interpreter of its mapping language (this is compiled code, so cheaper), its metrics, traces and logs
// for each component, and the hand-over between its goroutines but for the one behind the input. So that program itself
// uses more CPU than this.
//
// Like that pipeline it validates nothing, asks for no turn in a quota, and loses an order that it dies with after the
// dedupe.
func pipeline(ctx context.Context) error {
	worker.TuneGC(ctx) // as workers do
	text, err := os.ReadFile(os.Getenv("BENCH_SETUP"))
	if err != nil {
		return err
	}
	setup, err := seller.Parse(text)
	if err != nil {
		return err
	}
	account := setup.Accounts[0]
	p := &piped{gateway: account.Url, appKey: account.AppKey, department: account.Department, source: account.VendorSource,
		client: &http.Client{Transport: &http.Transport{MaxIdleConns: 2 * inFlight, MaxIdleConnsPerHost: 2 * inFlight}, Timeout: 10 * time.Second}}
	for file, into := range map[string]*string{account.AppSecret.GetFile(): &p.secret, account.AccessToken.GetFile(): &p.token} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		*into = strings.TrimSpace(string(raw))
	}
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
	if p.js, err = jetstream.New(nc); err != nil {
		return err
	}
	if _, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: pipelineStream, Subjects: []string{pipelineSubject + ".*"}}); err != nil {
		return err
	}
	consumer, err := p.js.CreateOrUpdatePushConsumer(ctx, pipelineStream, jetstream.ConsumerConfig{
		Durable: pipelineConsumer, DeliverSubject: nats.NewInbox(), FilterSubject: pipelineSubject + ".*",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: pipelinePrefetch,
	})
	if err != nil {
		return err
	}
	in := make(chan jetstream.Msg)
	consuming, err := consumer.Consume(func(m jetstream.Msg) { in <- m })
	if err != nil {
		return err
	}
	var threads sync.WaitGroup
	for range inFlight {
		threads.Go(func() {
			for m := range in {
				if err := p.push(ctx, m); err != nil {
					fmt.Fprintln(os.Stderr, "pipeline:", err)
				}
			}
		})
	}
	err = serve(ctx, nil)
	consuming.Stop()
	<-consuming.Closed()
	close(in)
	threads.Wait()
	return err
}

type piped struct {
	js                                                 jetstream.JetStream
	redis                                              *redis.Client
	client                                             *http.Client
	gateway, appKey, secret, token, department, source string
}

// push takes one message through the pipeline.
func (p *piped) push(ctx context.Context, m jetstream.Msg) error {
	meta := metadataOf(m)
	var order map[string]any
	if err := json.Unmarshal(m.Data(), &order); err != nil {
		return err
	}
	no, name := text(order["outbound_no"]), text(order["seller"])
	added, err := p.redis.SetNX(ctx, "dedupe:"+name+"/"+no, "t", time.Hour).Result()
	if err != nil {
		return err
	}
	if !added {
		return m.Ack()
	}
	answer, err := p.call(ctx, p.orderOf(order))
	if err != nil {
		return err
	}
	number := text(dig(answer, "jingdong_eclp_order_addOrder_responce", "eclpSoNo"))
	if number == "" {
		return fmt.Errorf("%s: no number", no)
	}
	now := time.Now()
	id := strings.Join([]string{event.OrderAccepted.Name, name, no, text(order["revision"])}, "/")
	out := nats.NewMsg(event.OrderAccepted.Name + "." + name)
	if out.Data, err = json.Marshal(map[string]any{
		"ref": map[string]any{
			"seller": name, "shop": order["shop"], "warehouse": order["warehouse"], "order_no": order["order_no"], "outbound_no": no,
			"revision": order["revision"], "warehouse_no": number, "kind": "order", "no": no,
		},
		"at": now.UTC().Format(time.RFC3339Nano),
	}); err != nil {
		return err
	}
	for _, h := range [][2]string{
		{event.HeaderSpec, "1.0"}, {event.HeaderID, id}, {event.HeaderType, event.OrderAccepted.Name}, {event.HeaderSource, "bench"}, {event.HeaderSubject, no},
		{event.HeaderTime, now.Format(time.RFC3339Nano)}, {event.HeaderContentType, meta[event.HeaderContentType]}, {jetstream.MsgIDHeader, id},
	} {
		out.Header.Set(h[0], h[1])
	}
	if _, err := p.js.PublishMsg(ctx, out); err != nil {
		return err
	}
	return m.Ack()
}

// metadataOf is what the input knows of a message besides its body.
func metadataOf(m jetstream.Msg) map[string]string {
	meta := map[string]string{"nats_subject": m.Subject()}
	if d, err := m.Metadata(); err == nil {
		meta["nats_sequence_stream"] = strconv.FormatUint(d.Sequence.Stream, 10)
		meta["nats_sequence_consumer"] = strconv.FormatUint(d.Sequence.Consumer, 10)
		meta["nats_num_delivered"] = strconv.FormatUint(d.NumDelivered, 10)
		meta["nats_num_pending"] = strconv.FormatUint(d.NumPending, 10)
		meta["nats_domain"] = d.Domain
		meta["nats_timestamp_unix_nano"] = strconv.FormatInt(d.Timestamp.UnixNano(), 10)
	}
	for k := range m.Headers() {
		if v := m.Headers().Get(k); v != "" {
			meta[k] = v
		}
	}
	return meta
}

// orderOf is JD's order as a map.
func (p *piped) orderOf(order map[string]any) map[string]any {
	receiver, _ := order["receiver"].(map[string]any)
	lines, _ := order["lines"].([]any)
	platforms, _ := order["platform_order_nos"].([]any)
	var goods, codes, quantities, prices, ids []string
	for _, l := range lines {
		line, _ := l.(map[string]any)
		goods, codes = append(goods, text(line["warehouse_goods_no"])), append(codes, text(line["goods_code"]))
		quantities, prices, ids = append(quantities, text(line["quantity"])), append(prices, text(line["price"])), append(ids, text(line["line_id"]))
	}
	one := ""
	if len(platforms) > 0 {
		one = text(platforms[0])
	}
	return map[string]any{
		"isvUUID": order["outbound_no"], "isvSource": p.source, "departmentNo": p.department, "shopNo": "ESP0020000000001", "warehouseNo": "110006341",
		"salesPlatformOrderNo": one, "salePlatformSource": "2", "salesPlatformCreateTime": order["ordered_at"], "orderMark": strings.Repeat("0", 50),
		"consigneeName": receiver["name"], "consigneeMobile": receiver["mobile"], "consigneeAddress": receiver["address"], "addressProvince": receiver["province"],
		"addressCity": receiver["city"], "addressCounty": receiver["county"], "goodsNo": strings.Join(goods, ","), "isvGoodsNo": strings.Join(codes, ","),
		"quantity": strings.Join(quantities, ","), "price": strings.Join(prices, ","), "orderLine": strings.Join(ids, ","),
	}
}

// call signs and posts, and decodes the answer.
func (p *piped) call(ctx context.Context, order map[string]any) (answer map[string]any, err error) {
	param, err := json.Marshal(order)
	if err != nil {
		return nil, err
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
	form := url.Values{"sign": {strings.ToUpper(hex.EncodeToString(sum[:]))}}
	query := url.Values{}
	for key, value := range params {
		if key == "360buy_param_json" {
			form.Set(key, value)
		} else {
			query.Set(key, value)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.gateway+"?"+query.Encode(), bytes.NewReader([]byte(form.Encode())))
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

// dig follows names into a JSON object.
func dig(v any, names ...string) any {
	for _, name := range names {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}
