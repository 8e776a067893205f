package bustest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Layout is the configuration of every stream, bucket and consumer on the server at url, as JSON, without the server's
// own metadata.
func Layout(t testing.TB, url string) []byte {
	t.Helper()
	type stream struct {
		jetstream.StreamConfig
		Consumers map[string]jetstream.ConsumerConfig `json:"consumers"`
	}
	layout := map[string]stream{}
	eachStream(t, url, func(info *jetstream.StreamInfo, consumers []*jetstream.ConsumerInfo) {
		s := stream{info.Config, map[string]jetstream.ConsumerConfig{}}
		maps.DeleteFunc(s.Metadata, serversOwn)
		for _, c := range consumers {
			maps.DeleteFunc(c.Config.Metadata, serversOwn)
			slices.Sort(c.Config.FilterSubjects)
			s.Consumers[c.Name] = c.Config
		}
		layout[s.Name] = s
	})
	text, err := json.MarshalIndent(layout, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func serversOwn(key, _ string) bool { return strings.HasPrefix(key, "_nats.") }

// Served are the names, sorted, of the durable consumers from which somebody pulls at present, without those on RETRY.
func Served(t testing.TB, url string) (names []string) {
	t.Helper()
	eachStream(t, url, func(info *jetstream.StreamInfo, consumers []*jetstream.ConsumerInfo) {
		for _, c := range consumers {
			if info.Config.Name != "RETRY" && c.Config.Durable != "" && c.NumWaiting > 0 {
				names = append(names, c.Name)
			}
		}
	})
	slices.Sort(names)
	return names
}

func eachStream(t testing.TB, url string, f func(*jetstream.StreamInfo, []*jetstream.ConsumerInfo)) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		s, err := js.Stream(t.Context(), info.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		var consumers []*jetstream.ConsumerInfo
		of := s.ListConsumers(t.Context())
		for c := range of.Info() {
			consumers = append(consumers, c)
		}
		if of.Err() != nil {
			t.Fatal(of.Err())
		}
		f(info, consumers)
	}
	if list.Err() != nil {
		t.Fatal(list.Err())
	}
}
