# dmps: `make` prints the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO    ?= go
BIN   := bin/dmps
STATICCHECK = $(GO) tool -modfile=$(CURDIR)/tools/staticcheck/go.mod staticcheck

# What goes into `dmps version`. A tree without git still builds.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# How long each fuzz target runs in fuzz-short: some seconds. As a count, because
# go test sometimes reports the end of a time as a failure of the target
# ("context deadline exceeded"). Cases are not made small for long: with pages of 4 KiB
# that would take all of the time.
FUZZTIME ?= 50000x

.DEFAULT_GOAL := help

.PHONY: help
help: ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Go knows what is up to date, make does not: always ask it.
.PHONY: build
build: ## build bin/dmps, one static binary with all roles
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/dmps

.PHONY: demo
demo: build ## start a cluster on loopback, kill two of six memory servers, verify every byte
	$(BIN) demo

# More flags of go test. A busy machine takes minutes for a package: the limit is
# for what hangs.
TESTFLAGS ?=
.PHONY: test
# Six packages side by side: most tests wait more than they compute.
test: race-ready ## run all tests with the race detector
	$(GO) test -race -p 6 -timeout 20m $(TESTFLAGS) ./...
	cd $(RESEARCH) && $(GO) test -race -timeout 20m $(TESTFLAGS) ./...

# Beside four processes that only compute: a test that depends on being on time
# fails. The logs of runs that failed are kept.
.PHONY: starve
starve: COUNT := 20
starve: race-ready ## run make test COUNT (20) times on a machine that is kept busy, one line a run; takes hours
	@mkdir -p bench-out; burners=(); trap 'kill "$${burners[@]}"' EXIT; \
	for i in 1 2 3 4; do \
		sh -c 'while kill -0 $$PPID 2>/dev/null; do i=0; while [ $$i -lt 1000000 ]; do i=$$((i+1)); done; done' & burners+=("$$!"); \
	done; \
	passed=0; \
	for run in $$(seq $(COUNT)); do \
		log=bench-out/starve-$$run.log; begin=$$SECONDS; \
		if $(MAKE) --no-print-directory test TESTFLAGS=-count=1 >"$$log" 2>&1; then \
			passed=$$((passed+1)); result=passed; rm "$$log"; \
		else \
			result="failed ($$log): $$(grep -oE '^ *--- FAIL: [^ ]*|^panic: .*|^FAIL	[^ ]*' "$$log" | tr -s '\n\t ' ' ' || true)"; \
		fi; \
		echo "run $$run of $(COUNT): $$((SECONDS-begin)) s, $$result"; \
	done; \
	echo "$$passed of $(COUNT) passed"; [ "$$passed" = $(COUNT) ]

# The race detector needs cgo and a C compiler; say so instead of failing in the linker.
.PHONY: race-ready
race-ready:
	@if [ "$$($(GO) env CGO_ENABLED)" != 1 ] || ! command -v "$$($(GO) env CC)" >/dev/null; then \
		echo "make test: the race detector needs a C compiler: install gcc (apt-get install gcc libc6-dev) and unset CGO_ENABLED," >&2; \
		echo "or run the tests without it: $(GO) test ./..." >&2; \
		exit 1; \
	fi

.PHONY: check
check: ## formatting, go vet, staticcheck, import rules, documentation
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...
	cd $(RESEARCH) && $(GO) vet ./... && $(STATICCHECK) ./...
	$(GO) test -count=1 ./internal/repocheck

.PHONY: e2e
e2e: build ## end-to-end tests with real processes and NBD clients (DMPS_E2E=1: missing tools fail instead of skip)
	DMPS_BIN=$(CURDIR)/$(BIN) $(GO) test -count=1 -timeout 20m ./chaos/e2e/... ./chaos/scale

# A thousand servers, 500 clients, half a million groups; the bars are those of a machine
# that has nothing else to do.
SCALE ?= -scale.servers 1000 -scale.volumes 500 -scale.groups 1000 -scale.steady 1m -scale.bars
.PHONY: scale
scale: build ## measure three metadata nodes with 1,000 simulated servers and 500,000 groups: SCALE='-scale.servers 200'
	DMPS_BIN=$(CURDIR)/$(BIN) $(GO) test -v -count=1 -timeout 2h -run '^TestScale$$' ./chaos/scale $(SCALE)

# Every choice of servers that are out while single pages are written, and of those
# that are out when they are read; and takeovers again and again. Some fifteen minutes.
.PHONY: degraded
degraded: build ## all choices of who is out while single pages are written, and who when they are read; takeovers beside partitions
	DMPS_BIN=$(CURDIR)/$(BIN) DMPS_E2E_CHOICES=all $(GO) test -v -count=1 -timeout 60m -run '^(TestDegradedSinglePages|TestTakeoverBesidePartition)$$' ./chaos/e2e

# Every order of events in small volumes, as long as an hour of one core allows; what
# each letter of SMALL='-small.events wfk' means says raid/log_small_events_test.go. At
# random, and further: make small-random.
SMALL ?=
.PHONY: small
small: ## walk every schedule of small volumes for an hour: SMALL='-small.geometry rs:2+1 -small.groups 2'
	$(GO) test ./raid -count=1 -v -timeout 3h -run '^TestSmallScopes$$' -small.depth 100 -small.time 1h -small.table 33554432 $(SMALL)

RANDOM_TIME ?= 10m
.PHONY: small-random
small-random: ## walk small volumes at random: RANDOM_TIME=1h SMALL='-small.geometry rs:2+1 -small.seed 7'
	$(GO) test ./raid -count=1 -v -timeout 0 -run '^TestSmallRandom$$' -small.random $(RANDOM_TIME) $(SMALL)

# What injects faults is a program of its own.
.PHONY: chaos-bin
chaos-bin: ## build bin/chaos, which breaks clusters
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/chaos ./cmd/chaos

# Which plan, and for how long; see docs/chaos.md. Without a seed a new one is taken.
SEED     ?=
DURATION ?= 5m
CHAOS    ?=
.PHONY: chaos
chaos: build chaos-bin ## break a cluster of real processes under load: SEED= DURATION= CHAOS='--redundancy mirror:3'
	bin/chaos --log-level warn $(if $(SEED),--seed $(SEED)) --duration $(DURATION) $(CHAOS)

# Crashes clients of a volume within one process, by new seeds for DURATION; the
# first failure ends it and names its seed. SOAK='-crashloop.geometry mirror:2'.
SOAK ?=
.PHONY: soak
soak: ## crash clients, cut off and harm servers for DURATION, one line a run: DURATION=4h SOAK='-crashloop.keep'
	$(GO) test -v -count=1 -timeout 0 -run '^TestCrashLoop$$' ./chaos/crashloop -crashloop.duration $(DURATION) $(SOAK)

# Measuring and drawing is a module of its own, so that the program depends on neither.
RESEARCH = chaos/research
.PHONY: research
research: ## build what measures and draws: bin/peers, bin/heal, bin/paper, bin/transfer
	cd $(RESEARCH) && $(GO) build -trimpath -o $(CURDIR)/bin/ ./peers/cmd/peers ./heal/cmd/heal ./paper/cmd/paper ./paper/cmd/transfer

.PHONY: bench
bench: build research ## compare with other NBD servers on this machine; writes bench-out/
	bin/peers -dmps $(CURDIR)/$(BIN) -out bench-out

.PHONY: bench-heal
bench-heal: build research ## page-in latency and speed of rebuilds, with the guard and without; writes bench-out/
	bin/heal -dmps $(CURDIR)/$(BIN) -out bench-out

# What the paper measured and what it left open, in guests; docs/paper. PAPER='-quick
# -out bench-out/paper' tries it in some minutes, PAPER=-draw draws again.
PAPER ?=
.PHONY: paper
paper: build research ## measure the figures of the paper in QEMU guests and draw them into docs/paper: PAPER='-only fill'
	bin/paper -dmps $(CURDIR)/$(BIN) $(PAPER)

# The real placement through repairs, in clusters of 24 to 1,000 servers; and what a
# volume and a plan cost beside 500,000 groups. Some two minutes.
.PHONY: placement
placement: ## simulate placement through repairs, print the tables of docs/benchmarks.md
	$(GO) test ./meta/state -count=1 -v -timeout 60m -run '^(TestCopysetsSurviveRepairs|TestServersOfDifferentSizesFillAlike|TestVolumesSpan)$$' \
		-bench '^Benchmark(CreateVolume|PlanLostServer)$$' -placement.all

.PHONY: bench-smoke
bench-smoke: ## run the Go benchmarks for 100 rounds each, to know that they run
	@# A round of BenchmarkFio takes seconds by design; one of BenchmarkApply fills a cluster.
	$(GO) test -run '^$$' -bench . -skip '^Benchmark(Fio|Apply)$$' -benchtime 100x ./...
	$(GO) test -run '^$$' -bench '^BenchmarkApply$$' -benchtime 1x ./meta/store

.PHONY: fuzz-short
fuzz-short: ## run every fuzz target for FUZZTIME (50000x)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | while IFS=: read -r file decl; do \
		dir=$$(dirname "$$file"); name=$${decl#func }; \
		echo "== $$dir $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$dir" </dev/null; \
	done

# Which scenarios (a part of the name; then the long ones as well), how often,
# and where the guest's kernel is kept; see docs/kernel.md.
RUN          ?=
COUNT        ?= 1
KERNEL       ?=
KERNEL_CACHE ?= $(CURDIR)/bin/kernel
# Whether RUN or KERNEL asks for scenarios with RDMA.
VERBS = $(findstring -kernel-all,$(KERNEL))$(shell [ -z '$(RUN)' ] || printf '%s\n' conformance-verbs swap-verbs-rs21 | grep -E -m1 -e '$(RUN)')
.PHONY: kernel
kernel: kernel-ready $(if $(VERBS),verbs-ready) ## swap to dmps in a QEMU guest and break it there: RUN=swap-nbd COUNT=20 KERNEL='-kernel-duration 10m'
	DMPS_KERNEL=1 $(GO) test -v -count=$(COUNT) -timeout 12h $(if $(RUN),-run 'TestScenarios/($(RUN))') ./chaos/kernel \
		-kernel-cache '$(KERNEL_CACHE)' $(if $(RUN),-kernel-all) $(KERNEL)

# Programs by Debian package. The guest's kernel is downloaded by the test.
.PHONY: kernel-ready
kernel-ready:
	@missing=(); \
	for pair in qemu-system-x86_64:qemu-system-x86 fio:fio mkfs.ext4:e2fsprogs; do \
		PATH=$$PATH:/usr/sbin:/sbin command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair#*:}"); \
	done; \
	sudo=(); [ "$$(id -u)" = 0 ] || sudo=(sudo); \
	if [ $${#missing[@]} -gt 0 ] || ! { [ -d '$(KERNEL_CACHE)' ] || apt-cache show linux-image-6.12-cloud-amd64 >/dev/null 2>&1; }; then \
		"$${sudo[@]}" apt-get update -qq; \
	fi; \
	[ $${#missing[@]} -gt 0 ] || exit 0; \
	echo "installing $${missing[*]}"; \
	DEBIAN_FRONTEND=noninteractive "$${sudo[@]}" apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

# Soft RoCE in a guest wants libfabric to build with, and libibverbs' driver.
.PHONY: verbs-ready
verbs-ready: fabric-ready
	@ls /usr/lib/*/libibverbs/librxe-rdmav*.so >/dev/null 2>&1 && exit 0; \
	sudo=(); [ "$$(id -u)" = 0 ] || sudo=(sudo); \
	echo "installing ibverbs-providers"; \
	"$${sudo[@]}" apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive "$${sudo[@]}" apt-get install -y -qq --no-install-recommends ibverbs-providers >/dev/null

# One-sided transfers, built and tested with libfabric; see docs/transport.md.
# Tests of providers that this machine lacks skip themselves and say so.
.PHONY: fabric
fabric: fabric-ready ## test transport/fabric with libfabric, on the providers tcp and shm, with the race detector off and on
	$(GO) vet -tags fabric ./...
	$(STATICCHECK) -tags fabric ./transport/... ./server ./cmd/...
	CGO_ENABLED=1 $(GO) test -tags fabric -count=1 -timeout 5m ./transport/fabric ./transport/media
	CGO_ENABLED=1 $(GO) test -tags fabric -count=1 -timeout 5m -run Fabric ./server
	CGO_ENABLED=1 $(GO) test -tags fabric -count=1 -timeout 5m -race ./transport/fabric

# All carriers by size, in turns, on this machine; some two minutes.
.PHONY: fabric-plot
fabric-plot: fabric-ready research ## measure sockets, libfabric and our transports by size, draw them into docs/transport and print the bars
	CGO_ENABLED=1 $(GO) test -tags fabric -count=1 -timeout 10m -run '^TestFigure$$' ./transport/fabric -figure $(CURDIR)/docs/transport
	bin/transfer -dir docs/transport

.PHONY: verbs-plot
verbs-plot: kernel-ready verbs-ready research ## the same for soft RoCE, in a QEMU guest
	bin/transfer -dir docs/transport -guest '$(KERNEL_CACHE)'

.PHONY: fabric-ready
fabric-ready:
	@missing=(); \
	[ -e /usr/include/rdma/fi_rma.h ] || missing+=(libfabric-dev); \
	command -v fi_info >/dev/null || missing+=(libfabric-bin); \
	command -v gcc >/dev/null || missing+=(gcc libc6-dev); \
	[ $${#missing[@]} -gt 0 ] || exit 0; \
	sudo=(); [ "$$(id -u)" = 0 ] || sudo=(sudo); \
	echo "installing $${missing[*]}"; \
	"$${sudo[@]}" apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive "$${sudo[@]}" apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

.PHONY: cover
cover: ## coverage of all packages in bench-out/cover.html
	@mkdir -p bench-out
	$(GO) test -coverpkg=./... -coverprofile=bench-out/cover.out ./...
	$(GO) tool cover -func=bench-out/cover.out | tail -1
	$(GO) tool cover -html=bench-out/cover.out -o bench-out/cover.html

# Faults put into the code one at a time: docs/mutants.md. MUTANTS='-only ^raid- -j 4'.
MUTANTS ?=
.PHONY: mutants
mutants: ## break the code in known ways, and see that a test notices each: MUTANTS='-only NAME -j 4'
	$(GO) run ./chaos/mutants $(MUTANTS)

.PHONY: clean
clean: ## remove what the targets above wrote
	rm -rf bin bench-out
