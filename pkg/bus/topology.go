package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// ErrTopology says that streams, consumers or buckets are missing or differ from what this build expects. `bridgectl
// topology apply` fixes it.
var ErrTopology = errors.New("topology is not applied")

// Topology is the operator's choices and the services to lay out for.
type Topology struct {
	// Replicas of every stream and bucket: 1, 3 or 5. 0 means 1.
	Replicas int
	// KeepFor is how long public streams keep events, and ACTS the acts of operators. 0 means 90 days.
	KeepFor time.Duration
	// Services bring the consumers.
	Services []Service
}

// Change is one difference between the server's topology and the expected one.
type Change struct {
	// Kind is "stream", "bucket", "consumer" or "tick"; Name of a consumer is "INTAKE/order-pusher".
	Kind, Name string
	// What differs: "missing", or the settings with their present and expected values.
	What string
}

func (c Change) String() string { return c.Kind + " " + c.Name + ": " + c.What }

// Names of streams. What ERPs publish is stored in INTAKE, the answers in ORDERS.
const (
	StreamIntake      = "INTAKE"
	StreamOrders      = "ORDERS"
	streamSellers     = "SELLERS"
	StreamStock       = "STOCK"
	StreamVMI         = "VMI"
	streamTicks       = "TICKS"
	streamRetry       = "RETRY"
	streamDeadLetters = "SHELF"
	streamActs        = "ACTS"
)

// Buckets.
const (
	// BucketSetup holds sellers' set-ups and pauses.
	BucketSetup = "SETUP"
	// BucketTokens holds the tokens of merchants' authorisations, encrypted.
	BucketTokens = "TOKENS"
	// BucketLedger is the ledger of the embedded default, BucketBooks its books: apart from it, because every worker
	// holds the ledger's keys in memory.
	BucketLedger = "LEDGER"
	BucketBooks  = "BOOKS"
	// bucketReady receives what CheckWrites stores.
	bucketReady = "READY"
)

// Limits. They nest: MaxBody < maxStored < a dead letter with our headers < the server's max_payload of 1 MiB.
const (
	// MaxBody is the largest body that is handled, bytes. A message with a larger one becomes a dead letter, complete.
	MaxBody = 256 << 10
	// maxStored is the largest message, including headers, that a public stream accepts, bytes.
	maxStored = 1_000_000
	// maxHeaders bounds the headers of a handled message, bytes. The server's own limit is 64 KiB, and a dead letter
	// adds ours.
	maxHeaders = 16 << 10
)

const (
	keepFor = 90 * 24 * time.Hour
	// ackWait stays above a handler's limit (25 s) and below the ledger's claim (40 s).
	ackWait = 30 * time.Second
	// maxAckPending also counts messages that wait for a delayed redelivery (at most 10 s each): a flood that has to
	// wait must not fill it.
	maxAckPending = 20_000
	// duplicates is how long our streams remember message ids.
	duplicates = 2 * time.Minute
	// intakeDuplicates is the shortest window that the server accepts: publishers choose the ids and share the window,
	// in which the id of one seller's message would keep out another's. The ledger recognises a repeated audit.
	intakeDuplicates = 100 * time.Millisecond
	// maxWaiting bounds the open pulls of all replicas, each of which has one or two.
	maxWaiting = 4096

	configKey = "stockbridge.config"
)

type streamRow struct {
	name     string
	subjects []string
	// earlier are subjects that it held in earlier builds: such messages may still be stored, and no new ones come.
	earlier []string
	public  bool
	// intake: it holds ids of any publisher, not only ours.
	intake bool
	// queue: acked messages are removed. schedules: it accepts Nats-Schedule.
	queue, schedules bool
	// record: nobody may remove its messages; they expire.
	record bool
}

type bucketRow struct {
	name string
	// markers is how long a deletion is remembered, for watchers that were cut off.
	markers time.Duration
	// workers is the filter of the keys that they may write; the operator may write all.
	workers string
}

// streams and buckets are the same for all services; consumers come with the services.
var (
	streams = slices.Concat([]streamRow{
		{name: StreamIntake, subjects: event.IntakeSubjects(), public: true, intake: true},
	}, documentStreams(), []streamRow{
		{name: streamSellers, subjects: event.SellerSubjects, public: true},
		{name: StreamStock, subjects: event.StockSubjects, public: true},
		{name: StreamVMI, subjects: event.VMISubjects, public: true},
		{name: streamTicks, subjects: event.TickSubjects, queue: true, schedules: true},
		{name: streamRetry, subjects: event.RetrySubjects, queue: true, schedules: true},
		{name: streamDeadLetters, subjects: event.DeadLetterSubjects},
		{name: streamActs, subjects: event.ActSubjects, record: true},
	})
	buckets = []bucketRow{
		{BucketSetup, 30 * 24 * time.Hour, "pause.*"},
		{BucketTokens, 30 * 24 * time.Hour, ">"},
		{BucketLedger, time.Hour, ">"},
		{BucketBooks, 10 * time.Minute, ">"}, // nobody watches it
		{bucketReady, 10 * time.Minute, ">"},
	}
)

// documentStreams are those of the answers about documents, one for each kind: ORDERS for "order".
func documentStreams() (rows []streamRow) {
	for _, word := range event.Documents() {
		row := streamRow{name: strings.ToUpper(word) + "S", subjects: event.OutcomeSubjects(word), public: true}
		if row.name == StreamOrders {
			row.earlier = event.IntakeSubjects()
		}
		rows = append(rows, row)
	}
	return rows
}

// plan is the topology as configurations of the server.
type plan struct {
	streams   []jetstream.StreamConfig
	consumers []planned
	retired   []retiredConsumer
	ticks     []Tick
}

type planned struct {
	stream string
	config jetstream.ConsumerConfig
}

func (t Topology) plan() plan {
	if t.Replicas == 0 {
		t.Replicas = 1
	}
	if t.KeepFor == 0 {
		t.KeepFor = keepFor
	}
	var p plan
	for _, r := range streams {
		c := jetstream.StreamConfig{
			Name: r.name, Subjects: r.subjects, Storage: jetstream.FileStorage, Replicas: t.Replicas,
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
			Duplicates: duplicates,
		}
		if r.intake {
			c.Duplicates = intakeDuplicates
		}
		if r.public {
			c.MaxAge, c.MaxMsgSize = t.KeepFor, maxStored
			c.DenyPurge = true
		}
		if r.record {
			c.MaxAge, c.DenyPurge, c.DenyDelete = t.KeepFor, true, true
		}
		if r.queue {
			c.Retention = jetstream.WorkQueuePolicy
		}
		if r.schedules {
			c.AllowMsgSchedules, c.AllowRollup = true, true
		}
		p.streams = append(p.streams, c)
	}
	for _, r := range buckets {
		p.streams = append(p.streams, jetstream.StreamConfig{
			Name: bucketPrefix + r.name, Subjects: []string{"$KV." + r.name + ".>"}, Storage: jetstream.FileStorage,
			Replicas: t.Replicas, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: 1, MaxMsgSize: -1, MaxConsumers: -1,
			Duplicates: duplicates, AllowDirect: true, AllowRollup: true, DenyDelete: true,
			AllowMsgTTL: true, SubjectDeleteMarkerTTL: r.markers,
		})
	}
	for _, s := range t.Services {
		p.ticks = append(p.ticks, s.Ticks...)
	}
	for _, c := range consumersOf(t.Services) {
		p.consumers = append(p.consumers, planned{c.Stream, consumerConfig(c.Name, c.Filters)})
		if !c.ticks() {
			p.consumers = append(p.consumers, planned{streamRetry, consumerConfig(retryName(c.Name), []string{event.RetryOf(c.Name)})})
		}
		for _, stream := range c.Retired {
			p.retired = append(p.retired, retiredConsumer{stream, c.Name})
		}
	}
	for i := range p.streams {
		p.streams[i].Metadata = map[string]string{configKey: fingerprint(streamSettings(p.streams[i]))}
	}
	for i, c := range p.consumers {
		p.consumers[i].config.Metadata = map[string]string{configKey: fingerprint(consumerSettings(c.config))}
	}
	return p
}

const bucketPrefix = "KV_"

func retryName(consumer string) string { return consumer + "-retry" }

func consumerConfig(name string, filters []string) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable: name, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: maxAckPending, MaxWaiting: maxWaiting,
	}
	if len(filters) == 1 {
		c.FilterSubject = filters[0]
	} else {
		c.FilterSubjects = filters
	}
	return c
}

// setting is one setting of ours as text; the server adds others, which are not compared.
type setting struct{ Name, Value string }

func streamSettings(c jetstream.StreamConfig) []setting {
	s := []setting{
		{"subjects", strings.Join(slices.Sorted(slices.Values(c.Subjects)), " ")},
		{"storage", c.Storage.String()},
		{"retention", c.Retention.String()},
		{"discard", c.Discard.String()},
		{"max_msgs", fmt.Sprint(c.MaxMsgs)},
		{"max_bytes", fmt.Sprint(c.MaxBytes)},
		{"max_msgs_per_subject", fmt.Sprint(c.MaxMsgsPerSubject)},
		{"max_msg_size", fmt.Sprint(c.MaxMsgSize)},
		{"duplicate_window", c.Duplicates.String()},
		{"deny_purge", fmt.Sprint(c.DenyPurge)},
		{"deny_delete", fmt.Sprint(c.DenyDelete)},
		{"allow_rollup_hdrs", fmt.Sprint(c.AllowRollup)},
		{"allow_msg_ttl", fmt.Sprint(c.AllowMsgTTL)},
		{"allow_msg_schedules", fmt.Sprint(c.AllowMsgSchedules)},
		{"subject_delete_marker_ttl", c.SubjectDeleteMarkerTTL.String()},
		{"sealed", fmt.Sprint(c.Sealed)},
		{"no_ack", fmt.Sprint(c.NoAck)},
	}
	if !agesByChoice(c.Name) {
		// An age shorter than a delay would lose the waiting message.
		s = append(s, setting{"max_age", c.MaxAge.String()})
	}
	return s
}

// chosenSettings are the operator's: applied, but no reason to refuse to start.
func chosenSettings(c jetstream.StreamConfig) []setting {
	s := []setting{{"num_replicas", fmt.Sprint(c.Replicas)}}
	if agesByChoice(c.Name) {
		s = append(s, setting{"max_age", c.MaxAge.String()})
	}
	return s
}

// agesByChoice reports whether the stream keeps its messages for as long as the operator chose.
func agesByChoice(name string) bool {
	return slices.ContainsFunc(streams, func(r streamRow) bool { return (r.public || r.record) && r.name == name })
}

func publicStream(name string) bool {
	return slices.ContainsFunc(streams, func(r streamRow) bool { return r.public && r.name == name })
}

// filtersOf are a consumer's filters, sorted.
func filtersOf(c jetstream.ConsumerConfig) []string {
	filters := slices.Clone(c.FilterSubjects)
	if c.FilterSubject != "" {
		filters = append(filters, c.FilterSubject)
	}
	slices.Sort(filters)
	return filters
}

func consumerSettings(c jetstream.ConsumerConfig) []setting {
	return []setting{
		{"filter_subjects", strings.Join(filtersOf(c), " ")},
		{"deliver_policy", c.DeliverPolicy.String()},
		{"ack_policy", c.AckPolicy.String()},
		{"ack_wait", c.AckWait.String()},
		{"max_deliver", fmt.Sprint(c.MaxDeliver)},
		{"max_ack_pending", fmt.Sprint(c.MaxAckPending)},
		{"max_waiting", fmt.Sprint(c.MaxWaiting)},
		{"backoff", fmt.Sprint(c.BackOff)},
		{"headers_only", fmt.Sprint(c.HeadersOnly)},
		{"inactive_threshold", c.InactiveThreshold.String()},
	}
}

func fingerprint(s []setting) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Diff lists what Apply would change; empty for nothing.
func (b *Bus) Diff(ctx context.Context, t Topology) ([]Change, error) {
	changes, _, err := b.diff(ctx, t.plan(), true)
	return changes, err
}

// CheckTopology is nil when the server has the streams, buckets and consumers that the services need; else it wraps
// ErrTopology and names each difference. It ignores the operator's choices (replicas, age of public streams).
func (b *Bus) CheckTopology(ctx context.Context, services ...Service) error {
	changes, _, err := b.diff(ctx, Topology{Services: services}.plan(), false)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		return nil
	}
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return fmt.Errorf("%w; run bridgectl topology apply: %s", ErrTopology, strings.Join(lines, "; "))
}

// Apply creates or changes streams, buckets and consumers and returns what it changed. Only one owner may call it:
// `bridgectl topology apply`, or `up`. Some settings cannot be changed while a stream holds messages; the error then
// names it.
func (b *Bus) Apply(ctx context.Context, t Topology) ([]Change, error) {
	changes, steps, err := b.diff(ctx, t.plan(), true)
	if err != nil {
		return nil, err
	}
	for i, step := range steps {
		if err := step(ctx); err != nil {
			return changes[:i], fmt.Errorf("apply %s: %w", changes[i], err)
		}
	}
	return changes, nil
}

// diff returns the differences and the steps that fix them. Existing streams are changed before new ones are created:
// no two may share a subject, and an earlier build may have stored a new stream's subjects elsewhere.
func (b *Bus) diff(ctx context.Context, p plan, chosen bool) (changes []Change, steps []func(context.Context) error, err error) {
	add := func(c Change, step func(context.Context) error) {
		changes = append(changes, c)
		steps = append(steps, func(ctx context.Context) error { return withRetry(ctx, step) }) // idempotent
	}
	var missing []Change
	var creations []func(context.Context) error
	for _, want := range p.streams {
		kind, name := "stream", want.Name
		if bucket, ok := strings.CutPrefix(name, bucketPrefix); ok {
			kind, name = "bucket", bucket
		}
		var s jetstream.Stream
		err := withRetry(ctx, func(ctx context.Context) (err error) {
			s, err = b.js.Stream(ctx, want.Name)
			return err
		})
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			missing = append(missing, Change{kind, name, "missing"})
			creations = append(creations, func(ctx context.Context) error {
				_, err := b.js.CreateStream(ctx, want)
				return err
			})
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %s %s: %w", kind, name, err)
		}
		have := s.CachedInfo().Config
		what := diffSettings(streamSettings(have), streamSettings(want), have.Metadata, want.Metadata)
		if chosen {
			what = append(what, diffSettings(chosenSettings(have), chosenSettings(want), nil, nil)...)
		}
		if len(what) > 0 {
			add(Change{kind, name, strings.Join(what, ", ")}, func(ctx context.Context) error {
				_, err := b.js.UpdateStream(ctx, want)
				return err
			})
		}
	}
	for i, c := range missing {
		add(c, creations[i])
	}
	for _, want := range p.consumers {
		name := want.stream + "/" + want.config.Durable
		var c jetstream.Consumer
		err := withRetry(ctx, func(ctx context.Context) (err error) {
			c, err = b.js.Consumer(ctx, want.stream, want.config.Durable)
			return err
		})
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			add(Change{"consumer", name, "missing"}, func(ctx context.Context) error {
				_, err := b.js.CreateConsumer(ctx, want.stream, want.config)
				return err
			})
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read consumer %s: %w", name, err)
		}
		have := c.CachedInfo().Config
		if what := diffSettings(consumerSettings(have), consumerSettings(want.config), have.Metadata, want.config.Metadata); len(what) > 0 {
			add(Change{"consumer", name, strings.Join(what, ", ")}, func(ctx context.Context) error {
				_, err := b.js.UpdateConsumer(ctx, want.stream, want.config)
				return err
			})
		}
	}
	for _, old := range p.retired {
		change, err := b.retiredChange(ctx, old)
		if err != nil {
			return nil, nil, err
		}
		if change != nil {
			changes = append(changes, *change)
			steps = append(steps, func(ctx context.Context) error { return b.migrate(ctx, old) })
		}
	}
	for _, t := range p.ticks {
		change, step, err := b.tickChange(ctx, t, chosen)
		if err != nil {
			return nil, nil, err
		}
		if change != nil {
			add(*change, step)
		}
	}
	return changes, steps, nil
}

// diffSettings names the settings that differ. The recorded fingerprint is compared too: it separates an older build's
// layout from one that somebody changed by hand to the same settings. The server's own metadata (_nats.*) is ignored.
func diffSettings(have, want []setting, haveMeta, wantMeta map[string]string) []string {
	var what []string
	for i := range want {
		if have[i].Value != want[i].Value {
			what = append(what, fmt.Sprintf("%s is %q, should be %q", want[i].Name, have[i].Value, want[i].Value))
		}
	}
	if haveMeta[configKey] != wantMeta[configKey] {
		what = append(what, fmt.Sprintf("recorded as %q, should be %q", haveMeta[configKey], wantMeta[configKey]))
	}
	return what
}
