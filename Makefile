# Every target with a "## text" is listed by `make help`.

SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/tunmesh/tunmesh/internal/version.number=$(VERSION)
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
PROGRAMS := mesh-proxy mesh-control mesh-cni meshctl emojivoto
CNI := main/bridge main/ptp main/loopback ipam/host-local meta/portmap
FUZZTIME ?= 60s
CHAOS ?= 10m
SEED ?=
SOAK ?= 30m
PAIRS ?= 15
RUN ?=
# These measure time or memory, or run whole meshes: one after the other.
ALONE := /netstack$$|/tunproxy$$|/cni/|/cmd/meshctl/|/bench/|/test/
# They boot Kubernetes.
E2E := ./test/cluster/... ./test/faults ./test/install ./test/node ./test/operations ./test/workloads
RACE_FLAGS = $(if $(RUN),-run '$(RUN)')

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: need-go
need-go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install Go 1.26 or newer (https://go.dev/dl), then run the same command again' >&2; exit 1; }

.PHONY: need-root
need-root:
	@[ "$$(id -u)" = 0 ] || { echo 'Root is needed for network namespaces and TUN devices: sudo -E env PATH="$$PATH" make $(MAKECMDGOALS)' >&2; exit 1; }
	@[ -c /dev/net/tun ] || { echo '/dev/net/tun is missing: load the kernel module (modprobe tun)' >&2; exit 1; }

.PHONY: need-tools
need-tools: need-go
	@for t in ip:iproute2 gcc:gcc; do command -v $${t%%:*} >/dev/null || { echo "$${t%%:*} is missing: apt-get install $${t##*:}" >&2; exit 1; }; done

# The console's page is built by npm, into a folder that mesh-control embeds. Without
# Node the programs are built all the same, and say so where the console would be.
WEB := control/console/web
CONSOLE := control/console/dist/index.html
WEB_SOURCES := $(shell find $(WEB)/src $(WEB)/*.json $(WEB)/*.ts $(WEB)/index.html $(WEB)/public -type f 2>/dev/null)

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	npm --prefix $(WEB) ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(CONSOLE): $(WEB)/node_modules/.package-lock.json $(WEB_SOURCES)
	npm --prefix $(WEB) run --silent build
	@touch $@

.PHONY: need-node
need-node:
	@command -v npm >/dev/null || { echo 'Node.js is missing: install Node 20.19 or newer with npm (https://nodejs.org)' >&2; exit 1; }

.PHONY: console
console: need-node $(CONSOLE) ## Build the console's page, which mesh-control embeds (needs Node 20.19 or newer)

.PHONY: console-if-node
console-if-node:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory console || echo 'WARNING: the console could not be built: mesh-control will say so where it would be' >&2; \
	else echo 'Node.js is not installed: mesh-control is built without the console' >&2; fi

.PHONY: build
build: need-go console-if-node ## Build all programs into bin/ (static), and the CNI reference plugins into bin/cni/
	@mkdir -p $(BIN)/cni
	$(BUILD) -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))
	@$(BUILD) -o $(BIN)/cni/ $(addprefix github.com/containernetworking/plugins/plugins/,$(CNI))

.PHONY: demo
demo: need-root build ## Run the sample application meshed on this machine, with live figures (Ctrl-C ends it)
	@$(BIN)/meshctl local demo $(DEMO_FLAGS)

.PHONY: test
test: need-root need-tools build ## Run all tests with the race detector; each part is run, also after one that failed
	$(GO) vet ./...
	$(GO) -C test/conformance/suites vet ./...
	$(GO) -C test/local/collector vet ./...
	@rc=0; \
	$(GO) test -race -timeout 30m $(RACE_FLAGS) $$($(GO) list ./... | grep -vE '$(ALONE)') || rc=1; \
	$(GO) test -race -timeout 30m -p 1 $(RACE_FLAGS) $$($(GO) list ./... | grep -E '$(ALONE)') || rc=1; \
	: 'The floods measure, which -race would change.'; \
	$(GO) test -timeout 10m -run '^(TestFloods|TestFloodsFromAMeshedPod|TestPacketFloods|TestSlowSieges)$$' ./tunproxy || rc=1; \
	exit $$rc

.PHONY: lint
lint: need-go ## Check formatting and run go vet and golangci-lint
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-clean:" >&2; echo "$$out" >&2; exit 1; }
	$(GO) vet ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo 'golangci-lint is not installed (https://golangci-lint.run): skipped'; fi

.PHONY: fmt
fmt: need-go ## Format all Go files
	gofmt -w $$(git ls-files '*.go')

.PHONY: generate
generate: need-go ## Generate the Go code of api/ from the .proto files
	$(GO) generate ./api/...

.PHONY: fuzz
fuzz: need-go ## Run every fuzzer for FUZZTIME (60s) each
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
	  for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$f); do \
	    echo "== $$name ($$(dirname $$f), $(FUZZTIME))"; \
	    $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$f) || exit 1; \
	  done; done

.PHONY: bench
bench: need-root need-go ## Measure tunmesh beside Envoy, HAProxy, nginx and nghttpx (BENCH_FLAGS="--full --out DIR" for a report)
	$(GO) run ./bench/cmd/bench run $(BENCH_FLAGS)

.PHONY: bench-net
bench-net: need-root build ## Measure one sidecar hop of opaque TCP against direct and kernel relays
	$(GO) run ./bench/cmd/bench-net $(BENCH_FLAGS)

.PHONY: images
images: need-go console ## Build the container images as tarballs into bin/images/ (IMAGES_FLAGS="-push REGISTRY/PATH" pushes them, too)
	$(GO) run ./deploy/images -o $(BIN)/images -version $(VERSION) $(IMAGES_FLAGS)

.PHONY: release
release: need-go ## Make what a release has in bin/release: meshctl, the chart, the images' digests, the install script, sums (VERSION=v1.2.3)
	$(GO) run ./deploy/release -o $(BIN)/release -version $(VERSION) -images $(BIN)/images $(RELEASE_FLAGS)

.PHONY: need-cluster
need-cluster: need-root need-tools
	@for t in pkg-config:pkg-config nft:nftables nsenter:util-linux setpriv:util-linux; do command -v $${t%%:*} >/dev/null || { echo "$${t%%:*} is missing: apt-get install $${t##*:}" >&2; exit 1; }; done
	@pkg-config --exists libseccomp || { echo 'libseccomp is missing: apt-get install libseccomp-dev' >&2; exit 1; }

.PHONY: need-e2e
need-e2e: need-cluster
	@for t in openssl:openssl curl:curl pgrep:procps; do command -v $${t%%:*} >/dev/null || { echo "$${t%%:*} is missing: apt-get install $${t##*:}" >&2; exit 1; }; done

.PHONY: cluster
cluster: need-cluster build ## Run a Kubernetes cluster on this machine, with the mesh and the sample in it (CLUSTER_FLAGS="-nodes 3 -dual-stack"; Ctrl-C ends it)
	@$(GO) run ./deploy/images -o $(BIN)/images -version $(VERSION) -arch $$($(GO) env GOARCH) -compress=false
	@$(GO) build -o $(BIN)/test-cluster ./test/cluster/cmd/cluster
	@PATH="$(CURDIR)/$(BIN):$$PATH" VERSION=$(VERSION) $(BIN)/test-cluster up $(if $(KUBERNETES),-kubernetes $(KUBERNETES)) \
	  $(foreach i,mesh-proxy mesh-control mesh-cni emojivoto,-image $(BIN)/images/$i.tar) -run test/cluster/mesh.sh $(CLUSTER_FLAGS)

.PHONY: e2e
e2e: need-e2e ## Run the tests that need Kubernetes, in clusters of their own (KUBERNETES=1.32 for another version; SHORT=1 for what .ci/run runs)
	CGO_ENABLED=0 $(GO) run -trimpath ./test/cluster/cmd/cluster build $(if $(KUBERNETES),-kubernetes $(KUBERNETES)) # the first time for minutes
	@: 'Compiled as the programs and images are: what those consist of is compiled once.'
	TUNMESH_CLUSTER=1 TUNMESH_KUBERNETES=$(KUBERNETES) CGO_ENABLED=0 $(GO) test -trimpath -count=1 -timeout $(if $(SHORT),15m -short,60m) -p 1 $(RACE_FLAGS) $(E2E)

.PHONY: e2e-range
e2e-range: need-e2e ## Run e2e with the oldest and the newest supported version of Kubernetes
	$(MAKE) e2e KUBERNETES=1.32
	$(MAKE) e2e KUBERNETES=1.36

.PHONY: rss
rss: need-root need-go ## Print the sidecars' resident memory: in the demo after 60 s of load, and with 1,000 idle connections
	$(GO) test -count=1 -v -run TestMemory ./test/local

.PHONY: chaos
chaos: need-root need-go ## Kill, add, stop, slow and break endpoints at random under load, for CHAOS (10m); SEED=N chooses the same again
	TUNMESH_CHAOS=$(CHAOS) TUNMESH_CHAOS_SEED=$(SEED) $(GO) test -count=1 -v -timeout 24h -run 'TestChaos$$' ./test/endurance

.PHONY: siege
siege: need-root need-go ## Judge what attackers of a sidecar do to others' latency, in PAIRS (15) of turns; the machine must do nothing else
	TUNMESH_SIEGE=$(PAIRS) $(GO) test -count=1 -v -timeout 60m ./test/siege

.PHONY: scale
scale: need-root need-go ## Measure the control plane before 1,000 Services, 10,000 endpoints and 1,000 sidecars (SCALE_OUT=FILE for the figures)
	TUNMESH_SCALE=1 TUNMESH_SCALE_OUT=$(SCALE_OUT) $(GO) test -count=1 -v -timeout 60m ./test/scale

.PHONY: soak
soak: need-root need-go ## 1,000 requests a second for SOAK (30m): nothing grows, everything is counted
	TUNMESH_SOAK=$(SOAK) $(GO) test -count=1 -v -timeout 24h -run 'TestSoak$$' ./test/endurance

.PHONY: clean
clean: ## Remove bin/, and what npm made
	rm -rf $(BIN) $(WEB)/node_modules
	find control/console/dist -type f ! -name .gitignore -delete
