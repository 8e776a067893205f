#!/usr/bin/env bash
# Publishes an audited order with the nats command line and waits for what becomes of it: publish.sh [order.json]
# NATS_URL says where (nats://127.0.0.1:4222), NATS_USER and NATS_PASSWORD as whom. Needs nats and jq.
set -euo pipefail
file=${1:-"$(dirname "$0")/../order.json"}
field() { jq -re ".$1" "$file"; }
seller=$(field seller) number=$(field outboundNo)
id=order.audited/$seller/$number/$(sha256sum "$file" | cut -c1-16)

# -J waits for the stream's answer and fails without one. The same command again is then right: the number is the key. It
# has no Nats-Msg-Id, so no other message can be taken for it.
nats pub -J "order.audited.$seller" "$(cat "$file")" \
  -H "Content-Type: application/json" -H "ce-specversion: 1.0" -H "ce-type: order.audited" -H "ce-source: erp" \
  -H "ce-id: $id" -H "ce-subject: $number" -H "ce-time: $(field auditedAt)"

# The seller's events from the beginning, until this order's comes.
set +o pipefail # once jq has it, nats may not write on
nats sub --stream ORDERS --all --raw "order.*.$seller" 2>/dev/null |
  jq -cn --arg number "$number" 'first(inputs | select(.ref.outbound_no? == $number))'
