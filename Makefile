# One place for every command. `make` alone lists them.
#
# Strict shell: a step that fails, a variable that is not set and a pipe that breaks all stop the target.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
.DEFAULT_GOAL := help

MODULES := proto pkg services
# `go tool` with a module file of its own cannot run inside a workspace.
TOOL := GOWORK=off go tool -modfile=../.ci/tools/go.mod
# The linter is linked once per pinned version: `go tool` would do it again for each module.
LINT_VERSION := $(shell sed -n 's|^.*golangci/golangci-lint/v2 \(v[^ ]*\).*|\1|p' .ci/tools/go.mod)
LINT := $(CURDIR)/bin/golangci-lint-$(LINT_VERSION)

ORDERS ?= 500
SEED ?= 1
# Nodes of nats-server in chaos: 1 or 3. CHAOS: further flags, see bin/chaos -help.
NODES ?= 1
CHAOS ?=
SCENARIO ?=
# Flags for go test: make test TEST='-run Lost -v', make test RACE=-race.
TEST ?=
RACE ?=

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: bin/bridgectl ## run everything in one process: broker, ledger, workers and, without JD credentials, the sandbox
	@exec bin/bridgectl up

.PHONY: demo
demo: ## a scripted story through the real workers (ORDERS=500 SEED=1); ends 1 if a promise breaks
	@go build -o bin/demo ./services/e2e/demo
	@exec bin/demo -orders $(ORDERS) -seed $(SEED)

# What of the table, rounds of each row, and where bench.json goes.
ROWS ?=
ROUNDS ?= 11
BENCH_DIR ?= bin/bench-data

.PHONY: bench
bench: redis ## the budgets, measured on this machine, a table and JSON (ROWS=push.redis,latency ROUNDS=11 BENCH_DIR=…)
	@mkdir -p bin
	@go build -o bin/bench ./services/e2e/bench
	@exec bin/bench -rows '$(ROWS)' -rounds $(ROUNDS) -dir $(BENCH_DIR)

# Tests mostly wait, for ticks and for servers: so a package more than there are processors, and in each more tests than
# that. With -race they compute, so fewer run at once. The longest package begins first.
.PHONY: test
test: redis examples-deps ## every test of every module (TEST='-run Name -v', RACE=-race)
	@go test -timeout 15m $(if $(RACE),-parallel 4,-parallel 8 -p $$(($$(getconf _NPROCESSORS_ONLN) + 1))) $(RACE) $(TEST) ./services/e2e $(MODULES:%=./%/...)

.PHONY: test-cluster
test-cluster: ## the bus' own tests on three nodes with three replicas of everything, and what only a cluster can show
	cd pkg && go test $(RACE) -count=1 -tags cluster $(TEST) ./bus -nodes 3

.PHONY: crash
crash: redis ## stop a worker at every step it takes and start another; ends 1 if a promise breaks (SCENARIO='part of its name')
	cd services && go test $(RACE) -count=1 -timeout 60m ./e2e/crash -everything -scenario '$(SCENARIO)'

.PHONY: ci
ci: RACE = -race -count=1
ci: ## what a change must pass, each step with its seconds
	@for step in tidy-check build boundaries generate-check lint test test-cluster chart alerts demo plant; do \
	  printf '\n== %s\n' $$step; began=$$SECONDS; \
	  $(MAKE) --no-print-directory $$step RACE='$(RACE)' || { printf '== %s: FAILED after %d s\n' $$step $$((SECONDS - began)); exit 1; }; \
	  printf '== %s: %d s\n' $$step $$((SECONDS - began)); \
	done; printf '\n== all: %d s\n' $$SECONDS

# The demo must notice a client that repeats lost calls blindly: the bug is compiled in, the sources stay as they are.
.PHONY: plant
plant: bin/plants
	@go build -overlay "$$(bin/plants -overlay blind-repeat -dir bin/planted)" -o bin/planted/demo ./services/e2e/demo
	@if bin/planted/demo -orders 200 -seed $(SEED) >bin/plant.log 2>&1; then cat bin/plant.log; echo "the planted bug went unnoticed"; exit 1; fi
	@grep -q 'P1 .* 2 documents' bin/plant.log || { cat bin/plant.log; echo "it failed for another reason"; exit 1; }
	@echo "the planted bug was noticed: $$(grep -c 'P1 .* 2 documents' bin/plant.log) double shipments named"

.PHONY: chaos-plants
chaos-plants: redis bin/plants ## plant each known bug in turn and show what catches it, over real processes; ends 1 if one is not caught
	@exec bin/plants

# The programs of the stories.
bin/plants bin/check bin/chaos: bin/%: FORCE
	@mkdir -p bin
	@go build -o $@ ./services/e2e/$*

.PHONY: chaos
chaos: redis bin/chaos ## break everything for some minutes while orders arrive, and judge what came of it (NODES=3 SEED=1 CHAOS='-kills 50 -v'); ends 1 if a promise broke
	@exec bin/chaos -nodes $(NODES) -seed $(SEED) $(CHAOS)

.PHONY: kills
kills: redis bin/chaos ## 20 000 orders while the only pusher is killed ten times; ends 1 if a promise broke
	@exec bin/chaos -scenario kills -seed $(SEED) $(CHAOS)

# A minute of chaos, the same plan each time.
.PHONY: chaos-smoke
chaos-smoke: redis bin/chaos ## a minute of what is quick of make chaos
	@bin/chaos -scenario smoke >bin/chaos-smoke.log 2>&1 || { cat bin/chaos-smoke.log; exit 1; }
	@grep -E '^P[0-9]+ ' bin/chaos-smoke.log

.PHONY: build
build: ## the programs into bin/, static
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -o bin/ ./services/...

# The folders that hold a main package.
bin/%: FORCE
	@mkdir -p bin
	@CGO_ENABLED=0 go build -trimpath -o $@ ./services/$*
.PHONY: FORCE
FORCE:

.PHONY: generate
generate: proto-deps ## proto: lint, then write the Go code and docs/asyncapi.json again
	cd proto && npx buf lint && GOWORK=off npx buf generate
	@mkdir -p bin && .ci/asyncapi/write > bin/asyncapi.json && mv bin/asyncapi.json docs/asyncapi.json

.PHONY: generate-check
generate-check: proto-deps .ci/asyncapi/node_modules/.package-lock.json
	.ci/proto-check
	@mkdir -p bin && .ci/asyncapi/write > bin/asyncapi.json
	@diff -u docs/asyncapi.json bin/asyncapi.json || { echo "docs/asyncapi.json is not what the .proto files and the table of events say. Run: make generate"; exit 1; }
	@node .ci/asyncapi/check.mjs docs/asyncapi.json

# buf from npm as package-lock.json pins it, and the one file that our messages import.
.PHONY: proto-deps
proto-deps: proto/node_modules/.package-lock.json proto/third_party/buf/validate/validate.proto

%/node_modules/.package-lock.json: %/package-lock.json
	cd $* && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

proto/third_party/buf/validate/validate.proto: .ci/tools/go.mod
	@mkdir -p $(@D)
	dir=$$(cd .ci/tools && GOWORK=off go mod download -json github.com/bufbuild/protovalidate | sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p'); \
	cat "$$dir/proto/protovalidate/buf/validate/validate.proto" > $@

.PHONY: lint
lint: $(LINT) ## golangci-lint in every module, as .golangci.yaml says
	@failed=; for module in $(MODULES); do (cd $$module && $(LINT) run ./...) || failed=yes; done; [ -z "$$failed" ]

$(LINT): .ci/tools/go.mod
	@mkdir -p bin
	cd .ci/tools && GOWORK=off go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

# A module of its own, outside the workspace: Kubernetes' and Docker's libraries stay out of what runs.
.PHONY: chart
chart: ## what is deployed: compose, the Dockerfile, the Helm chart with its value sets, against the tools' own libraries
	@.ci/promtool
	cd .ci/deploy && GOWORK=off go vet ./... && GOWORK=off go test -count=1 $(TEST) ./...

.PHONY: alerts
alerts: ## the Prometheus alerts with their tests (promtool), and the Grafana dashboard, against docs/metrics.md
	@.ci/promtool
	bin/promtool check rules deploy/prometheus/rules.yaml
	bin/promtool test rules deploy/prometheus/tests/*.yaml
	cd .ci/monitoring && GOWORK=off go vet ./... && GOWORK=off go test -count=1 ./...

.PHONY: boundaries
boundaries: ## who may import whom, which word lives where, each module alone
	@for module in $(MODULES); do (cd $$module && GOWORK=off go build ./...); done
	cd services && go test -count=1 ./e2e/rules

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy); done

.PHONY: tidy-check
tidy-check:
	@for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy -diff) || { echo "run: make tidy"; exit 1; }; done

# The tests run the examples.
.PHONY: examples-deps
examples-deps: examples/node/node_modules/.package-lock.json
	@.ci/php

# The tests run a real redis-server.
.PHONY: redis
redis:
	@.ci/redis
