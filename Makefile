# `make` lists what there is. Everything needs Go and, where it says so, what `make deps` installs; nothing else.

GO        ?= go
PREFIX    ?= /usr/local
VERSION   ?= $(or $(patsubst v%,%,$(shell git describe --tags --always --dirty 2>/dev/null)),dev)
PKG       ?= ./...
FUZZTIME  ?= 20s
SOAK      ?= 40
BENCH     ?= .
BENCHTIME ?= 1s

# The program is built, tested and linted without cgo; only the race detector needs it. The version is taken from git
# above, once, so that Go need not ask git again (which fails in a clone that belongs to another user).
export CGO_ENABLED := 0
export GOFLAGS     += -buildvcs=false
# Where Debian keeps nginx, which is not in the PATH of ordinary users.
export PATH        := $(PATH):/usr/sbin:/sbin

# go-test runs `go test $(1)`. Tests that lack a program note that in the file $CERTSWARM_UNRUN (internal/need), and the
# run ends with one line about them.
define go-test
unrun=$$(mktemp) && trap 'rm -f "$$unrun"' EXIT && trap 'exit 1' HUP INT TERM && status=0; \
CERTSWARM_UNRUN=$$unrun $(GO) test $(1) || status=$$?; \
awk '{ n[$$1]++ } END { for (tool in n) list = list (list ? ", " : "") n[tool] " for want of " tool; \
	if (list) print "tests that could not run: " list " (`make deps` installs what is missing)" }' "$$unrun"; \
exit $$status
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## run a fleet on this machine: agents, nginx, a CA (NODES=n; HOLD=1 keeps it up)
	@$(GO) build -o bin/up ./testnet/up
	@bin/up $(if $(NODES),-nodes $(NODES)) $(if $(HOLD),-hold)

.PHONY: test
test: ## run every test (PKG=./syncer/... for some)
	@$(call go-test,$(PKG))

.PHONY: race
race: export CGO_ENABLED := 1
race: ## run every test under the race detector (needs a C compiler)
	@$(call go-test,-race -timeout 40m $(PKG))

.PHONY: soak
soak: ## let leases live through SOAK (40) rounds of storms, some 260 virtual hours each, every round with new seeds
	@$(GO) test -run "^TestChaos" -v -count $(SOAK) -timeout 0 ./internal/lease -seed 0

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@targets=$$($(GO) test -list '^Fuzz' $(PKG)) || { echo "$$targets"; exit 1; }; \
	echo "$$targets" | awk '/^Fuzz/ { name[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, name[i]; n = 0 }' | \
	while read -r package name; do \
		echo "== $$package $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null || exit 1; \
	done

.PHONY: lint
lint: ## check format, modules, vet, staticcheck, and that imports only fall
	@bad=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) || exit 1; [ -z "$$bad" ] || { echo "not as gofmt writes it:" $$bad; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) tool -modfile=internal/tools/go.mod staticcheck ./...
	$(GO) test -run '^TestFloors' ./internal/agent

.PHONY: check
check: lint test race ## lint, test and race

.PHONY: bench
bench: ## run the benchmarks (BENCH=pattern, BENCHTIME=1s)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem $(PKG)

.PHONY: bench-peers
bench-peers: ## put the same work on certswarm, Syncthing, rsync and lego, here and now (ONLY=pattern, ROUNDS=3); installs them
	@.ci/deps bench
	@mkdir -p bin
	@$(GO) build -o bin/versus ./testnet/versus
	@bin/versus -dir bin $(if $(ONLY),-only '$(ONLY)') $(if $(ROUNDS),-rounds $(ROUNDS))

.PHONY: cover
cover: ## measure what the tests reach; the page is bin/cover.html
	@mkdir -p bin
	@$(GO) test -coverpkg=./... -coverprofile=bin/cover.out $(PKG)
	@$(GO) tool cover -html=bin/cover.out -o bin/cover.html
	@$(GO) tool cover -func=bin/cover.out | tail -n 1

.PHONY: build
build: ## build bin/certswarm, static, with the version that git describes
	@$(GO) build -trimpath -tags urfave_cli_no_docs -ldflags '-s -w -X main.version=$(VERSION)' -o bin/certswarm ./cmd/certswarm

bin/certswarm:
	@$(MAKE) build

.PHONY: deps
deps: ## install what tests need beyond Go (nginx, openssl ...), by apt-get, if missing and permitted
	@.ci/deps

.PHONY: install
install: bin/certswarm ## install program, units, sysusers.d and tmpfiles.d (PREFIX=/usr/local, DESTDIR=)
	install -D -m 0755 bin/certswarm $(DESTDIR)$(PREFIX)/bin/certswarm
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/bin/certswarm|$(PREFIX)/bin/certswarm|' systemd/certswarm.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/certswarm.service
	chmod 0644 $(DESTDIR)$(PREFIX)/lib/systemd/system/certswarm.service
	install -D -m 0644 systemd/sysusers.d/certswarm.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/certswarm.conf
	install -D -m 0644 systemd/tmpfiles.d/certswarm.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/certswarm.conf
	install -D -m 0644 systemd/nginx.service.d/certswarm.conf $(DESTDIR)$(PREFIX)/share/doc/certswarm/examples/nginx.service.d/certswarm.conf
	install -D -m 0644 nginx/snippets/acme-challenge.conf $(DESTDIR)$(PREFIX)/share/doc/certswarm/examples/acme-challenge.conf
	@$(if $(DESTDIR),,echo 'now: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload')

.PHONY: clean
clean: ## remove bin/
	rm -rf bin
