// Publish hands an audited order over and waits for what becomes of it: go run . [order.json]
//
// NATS_URL says where (nats://127.0.0.1:4222), NATS_USER and NATS_PASSWORD as whom. It ends 0 once the order is accepted.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

func main() {
	file := "../order.json"
	if len(os.Args) > 1 {
		file = os.Args[1]
	}
	if err := run(context.Background(), file); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// An ERP fills in the message itself; reading it from a file shows a misspelt field before it is sent.
	order := &orderv1.Audited{}
	if err := protojson.Unmarshal(body, order); err != nil {
		return err
	}
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL),
		nats.UserInfo(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD")), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}

	stored, err := publish(ctx, js, order, body)
	if err != nil {
		return err
	}
	fmt.Printf("stored as %s %d\n", stored.Stream, stored.Sequence)
	return outcome(ctx, js, order)
}

// publish hands the order over. It is handed over when the stream has answered, not before. Without an answer it may be
// stored or not: the same message again, under the same id, is right in both cases.
func publish(ctx context.Context, js jetstream.JetStream, order *orderv1.Audited, body []byte) (*jetstream.PubAck, error) {
	// The same content always has the same id, and nobody else's has it: the window for duplicates is all sellers'.
	sum := sha256.Sum256(body)
	id := "order.audited/" + order.Seller + "/" + order.OutboundNo + "/" + hex.EncodeToString(sum[:8])
	m := nats.NewMsg("order.audited." + order.Seller)
	m.Data = body
	for header, value := range map[string]string{
		"Content-Type": "application/json", "Nats-Msg-Id": id,
		"ce-specversion": "1.0", "ce-id": id, "ce-type": "order.audited", "ce-source": "erp", "ce-subject": order.OutboundNo,
		"ce-time": order.AuditedAt.AsTime().Format(time.RFC3339),
	} {
		m.Header[header] = []string{value} // as they are: Set would write Ce-Id
	}
	for attempt := 1; ; attempt++ {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		stored, err := js.PublishMsg(once, m)
		cancel()
		if err == nil && stored.Duplicate && attempt == 1 {
			// It was published for the first time: another message has the id, and this one was not stored.
			fmt.Fprintf(os.Stderr, "another message has the id %s: publishing without one\n", id)
			delete(m.Header, "Nats-Msg-Id")
			continue
		}
		if err == nil || attempt == 10 {
			return stored, err
		}
		fmt.Fprintf(os.Stderr, "no answer yet (%v), trying again\n", err)
		time.Sleep(time.Second)
	}
}

// outcome waits for what becomes of the order. An ERP keeps a durable consumer and books what it reads, keyed on ce-id:
// the same event may come twice. This reads once, what was published since the order was audited.
func outcome(ctx context.Context, js jetstream.JetStream, order *orderv1.Audited) error {
	audited := order.AuditedAt.AsTime()
	consumer, err := js.OrderedConsumer(ctx, "ORDERS", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"order.accepted." + order.Seller, "order.held." + order.Seller, "order.failed." + order.Seller},
		DeliverPolicy:  jetstream.DeliverByStartTimePolicy, OptStartTime: &audited,
	})
	if err != nil {
		return err
	}
	events, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer events.Stop()
	// Fields that a newer Stockbridge adds are none of our business.
	reader := protojson.UnmarshalOptions{DiscardUnknown: true}
	for {
		m, err := events.Next()
		if err != nil {
			return err
		}
		answer := &documentv1.Held{} // ref and reason stand at the same place in all three
		if err := reader.Unmarshal(m.Data(), answer); err != nil {
			return err
		}
		if answer.GetRef().GetOutboundNo() != order.OutboundNo {
			continue
		}
		fmt.Printf("%s %s\n", m.Headers()["ce-type"], m.Data())
		if m.Headers()["ce-type"][0] != "order.accepted" {
			return errors.New(answer.GetReason().GetZh() + " / " + answer.GetReason().GetEn())
		}
		return nil
	}
}
