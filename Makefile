# Needs Go and GNU make; everything else is built from pinned modules into bin/.
# `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Most steps use all cores by themselves, and the order of `test` is on purpose.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# What may be set from outside: make fuzz FUZZTIME=5m
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The time of everything that is built, in seconds: one commit makes one image.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
FUZZTIME ?= 30s
BENCH ?= .
BENCHTIME ?= 1s
# How long, and how many checks and report calls a second. SOAK_OUT, a whole path, is where results go if not into bin/soak and docs.
SOAK ?= 60m
SOAK_CHECKS ?= 100
SOAK_REPORTS ?= 20
SOAK_OUT ?=
IMAGE ?= tollgate:$(VERSION)
# The image that builds it; that of the Dockerfile if empty.
GO_IMAGE ?=
CONTAINER_TOOL ?= $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
# Docker takes the time from the build argument; the others want it as an option, and put their own version on the image unless told not to.
IMAGE_FLAGS = $(if $(filter docker,$(notdir $(CONTAINER_TOOL))),,--timestamp $(SOURCE_DATE_EPOCH) --identity-label=false)
# Runs two commands at once, both to their ends, and fails where either does.
beside = { $(1); } & first=$$!; trap 'kill $$first; exit 1' INT TERM; failed=; { $(2); } || failed=1; wait $$first || failed=1; test -z "$$failed"
# The breaking-change check of config.proto.
PROTO_BREAKING = go -C tools/buf tool buf breaking ../../config --against ../../config/testdata/released.binpb --config breaking.yaml

MIXERS := 1.7.8 1.6.14 1.5.10
MIXER_BINARIES := $(foreach version,$(MIXERS),bin/istio-$(version)/mixs)
LINTER := bin/golangci-lint
# What the linter and the nested modules' tests compile is compiled as `build` compiles it, so that all share one cache.
AS_BUILT := CGO_ENABLED=0 GOFLAGS="$${GOFLAGS:-} -trimpath"
LINTED := . bench test/collector test/collector/sink test/connections test/image test/kafka test/kubernetes test/kubernetes/crds test/mixer test/reports tools/lint tools/proto

.PHONY: help
help:
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build and try

.PHONY: build
build: ## Build bin/tollgate, one static binary
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/tollgate ./cmd/tollgate

.PHONY: sbom
sbom: build ## Write bin/tollgate.cdx.json, what the binary is made of (CycloneDX)
	hack/sbom.sh bin/tollgate '$(VERSION)' bin/tollgate.cdx.json

.PHONY: demo
demo: build bin/istio-1.7.8/mixs ## Ask Tollgate through the real Mixer and show what it decides
	@TOLLGATE_BIN=bin/tollgate go -C test/mixer run ./cmd/demo

.PHONY: image
image: ## Build the container image
	$(if $(CONTAINER_TOOL),,$(error none of docker, podman and buildah is installed))
	$(CONTAINER_TOOL) build $(IMAGE_FLAGS) $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) --tag $(IMAGE) .

##@ Test

# What fails quickly comes first, what takes minutes last.
.PHONY: test
test: generate-check proto-breaking test-unit lint-proof lint-and-kubernetes test-connections test-reports test-sinks test-mixer test-image ## Run every check there is

.PHONY: test-unit
test-unit: ## Test the module itself, with the race detector and a real Redis
	hack/redis.sh
	hack/test-race.sh ./...
	$(AS_BUILT) go test ./adapter/policy/rego # what takes too long with the detector
	$(AS_BUILT) go -C tools/proto test ./...

.PHONY: test-connections
test-connections: build ## Test the binary against connections that mean no good
	TOLLGATE_BIN=$(CURDIR)/bin/tollgate $(AS_BUILT) go -C test/connections test -count=1 -timeout=10m ./...

.PHONY: test-reports
test-reports: build ## Test the binary's reports: kill -9, full disks, dead sinks
	TOLLGATE_BIN=bin/tollgate $(AS_BUILT) go -C test/reports test -count=1 -timeout=20m ./...

.PHONY: test-sinks
test-sinks: ## Test sinks against a real OpenTelemetry Collector and a fake Kafka broker
	$(call beside,$(AS_BUILT) go -C test/kafka test -count=1 -timeout=10m ./...,$(AS_BUILT) go -C test/collector/sink test -count=1 -timeout=20m ./...)

# For most of their time the tests of Mixer and of Kubernetes compute nothing: configurations are taken over, sources get old, replicas drain. So more of
# them run at once than there are cores.
.PHONY: test-mixer
test-mixer: build mixer-binaries ## Test against the real Mixer of three Istio releases, and a real Redis
	hack/redis.sh
	TOLLGATE_BIN=bin/tollgate $(AS_BUILT) go -C test/mixer test -count=1 -parallel=6 -timeout=30m ./...

.PHONY: test-kubernetes
test-kubernetes: build mixer-binaries bin/kubernetes/kube-apiserver bin/kubernetes/crds ## Test what operators deploy, with real API servers, Mixers and promtool
	TOLLGATE_BIN=bin/tollgate $(AS_BUILT) hack/test-kubernetes.sh -count=1 -parallel=5 -timeout=20m ./...

# The linter takes what the others leave.
.PHONY: lint-and-kubernetes
lint-and-kubernetes: $(LINTER)
	@$(call beside,nice -n 19 $(MAKE) --no-print-directory lint,$(MAKE) --no-print-directory test-kubernetes)

.PHONY: test-image
test-image: ## Build the image twice without a container engine, and run it under runc as users without rights
	$(AS_BUILT) hack/test-image.sh -count=1 -timeout=15m ./...

.PHONY: lint
lint: $(LINTER) ## Lint the module and the nested ones
	@export $(AS_BUILT); failed=; \
	for module in $(LINTED); do \
	  echo "golangci-lint run ($$module)"; \
	  (cd "$$module" && '$(CURDIR)/$(LINTER)' run --config '$(CURDIR)/.golangci.yaml' ./...) || failed=1; \
	done; \
	test -z "$$failed"

.PHONY: lint-proof
lint-proof: $(LINTER) ## Prove that a forbidden import turns the linter red
	$(AS_BUILT) go -C tools/lint test -count=1 ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	hack/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## Run the benchmarks; BENCH selects, BENCHTIME prolongs
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem ./...

.PHONY: bench-collector
bench-collector: build ## Measure reports against the real OpenTelemetry Collector, side by side
	TOLLGATE_BIN=$(CURDIR)/bin/tollgate go -C bench test -count=1 -v -timeout=30m -run TestReports ./collector

.PHONY: soak
soak: build ## Run mixed load for SOAK and judge memory, goroutines, answers and records
	TOLLGATE_BIN=$(CURDIR)/bin/tollgate TOLLGATE_SOAK=$(SOAK) TOLLGATE_SOAK_CHECKS=$(SOAK_CHECKS) TOLLGATE_SOAK_REPORTS=$(SOAK_REPORTS) TOLLGATE_SOAK_OUT=$(SOAK_OUT) \
	  go -C bench test -count=1 -v -timeout=0 -run TestSoak ./soak

##@ Generated code

.PHONY: generate
generate: ## Generate code, descriptors and operator resources from the .proto files
	go -C tools/proto run ./protogen -root ../..

.PHONY: generate-check
generate-check: ## Fail if what is generated differs from what is there
	hack/generate-check.sh

.PHONY: proto-breaking
proto-breaking: ## Fail if config.proto breaks what users have
	$(if $(PROTO_BREAKING),,$(error PROTO_BREAKING names no check))
	$(PROTO_BREAKING)

##@ Keep in order

.PHONY: fmt
fmt: $(LINTER) ## Format all Go files
	$(LINTER) fmt

.PHONY: tidy
tidy: ## Tidy every module
	@for module in $$(find . -name go.mod -not -path './bin/*' -exec dirname {} \; | sort); do \
	  echo "go mod tidy ($$module)"; \
	  go -C "$$module" mod tidy; \
	done

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf bin

##@ Tools, built once and again when their module changes

.PHONY: mixer-binaries
mixer-binaries: $(MIXER_BINARIES) ## Build the real Mixers; minutes the first time

bin/istio-%/mixs: test/mixer/istio-%/go.mod test/mixer/istio-%/go.sum
	@echo 'Building the Mixer of Istio $*: one to two minutes the first time.'
	go -C test/mixer/istio-$* build -o ../../../bin/istio-$*/ tool
	@touch $@

# kubectl comes with it.
bin/kubernetes/kube-apiserver: test/kubernetes/apiserver/go.mod test/kubernetes/apiserver/go.sum
	@echo 'Building the Kubernetes API server and kubectl: three to seven minutes the first time.'
	CGO_ENABLED=0 go -C test/kubernetes/apiserver build -trimpath -ldflags '-s -w' -o ../../../bin/kubernetes/ tool
	@touch $@

bin/kubernetes/crds: $(wildcard test/kubernetes/crds/*)
	@echo 'Building the server of custom resources: two minutes the first time.'
	CGO_ENABLED=0 go -C test/kubernetes/crds build -trimpath -ldflags '-s -w' -o ../../../$@ .

$(LINTER): tools/lint/go.mod tools/lint/go.sum
	@echo 'Building the linter: about two minutes the first time.'
	CGO_ENABLED=0 go -C tools/lint build -trimpath -o ../../$@ tool
	@touch $@
