// Publishes an audited order and waits for what becomes of it: node publish.mjs [order.json]
// NATS_URL says where (nats://127.0.0.1:4222), NATS_USER and NATS_PASSWORD as whom. Ends 0 once the order is accepted.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const file = process.argv[2] ?? new URL("../order.json", import.meta.url);
const body = await readFile(file);
const order = JSON.parse(body);

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  user: process.env.NATS_USER,
  pass: process.env.NATS_PASSWORD,
});
const js = jetstream(nc);

// The same content always has the same id, and nobody else's has it: the window for duplicates is all sellers'. It is a
// moment long; Stockbridge knows the outbound number for ever after.
const hash = createHash("sha256").update(body).digest("hex").slice(0, 16);
const id = `order.audited/${order.seller}/${order.outboundNo}/${hash}`;
const h = headers();
h.set("Content-Type", "application/json");
h.set("ce-specversion", "1.0");
h.set("ce-id", id);
h.set("ce-type", "order.audited");
h.set("ce-source", "erp");
h.set("ce-subject", order.outboundNo);
h.set("ce-time", order.auditedAt);

const stored = await publish(`order.audited.${order.seller}`);
console.log(`stored as ${stored.stream} ${stored.seq}`);

const event = await outcome();
console.log(JSON.stringify(event, null, 2));
await nc.close();
process.exitCode = event.event === "order.accepted" ? 0 : 1;

// An order is handed over when the stream has answered, not before. Without an answer it may be stored or not: the same
// message again, under the same id, is right in both cases.
async function publish(subject) {
  let msgID = id;
  for (let attempt = 1; ; attempt++) {
    let stored;
    try {
      stored = await js.publish(subject, body, { headers: h, msgID, timeout: 5000 });
    } catch (err) {
      if (attempt === 10) throw err;
      console.error(`no answer yet (${err.message}), trying again`);
      await new Promise((wake) => setTimeout(wake, 1000));
      continue;
    }
    if (stored.duplicate && attempt === 1) {
      // It was published for the first time: another message has the id, and this one was not stored.
      console.error(`another message has the id ${id}: publishing without one`);
      msgID = undefined;
      continue;
    }
    return stored;
  }
}

// An ERP keeps a durable consumer and books what it reads, keyed on ce-id: the same event may come twice. This looks
// once, at what was published since the order was audited.
async function outcome() {
  const events = ["order.accepted", "order.held", "order.failed"];
  const consumer = await js.consumers.get("ORDERS", {
    filter_subjects: events.map((event) => `${event}.${order.seller}`),
    deliver_policy: "by_start_time",
    opt_start_time: new Date(order.auditedAt).toISOString(),
  });
  for await (const m of await consumer.consume()) {
    const event = m.json();
    if (event.ref.outbound_no === order.outboundNo) {
      return { event: m.headers.get("ce-type"), id: m.headers.get("ce-id"), ...event };
    }
  }
}
