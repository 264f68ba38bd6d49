# k6u: everything is done by make. `make` alone says what there is.

export CARGO ?= cargo
export KUBECTL ?= kubectl
# Where cargo builds: what it reads from the environment.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# What `k6u --version` says after the version.
export K6U_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the release binary, target/release/k6u
	$(CARGO) build --release --locked

.PHONY: demo
demo: build ## show the main job on an embedded API server (20 s, no root)
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin demo -- $(TARGET)/release/k6u

.PHONY: test
test: ## run all tests that need no root, no network and no cluster
	$(CARGO) test --locked --workspace

.PHONY: test-routers
test-routers: ## run the tests with real routers: radvd, dnsmasq, dhcpcd
	$(CARGO) test --locked --test routers

.PHONY: test-clients
test-clients: ## run the same with dhcpcd, systemd-networkd and NetworkManager on the node (root, five minutes)
	scripts/client-tools.sh
	$(CARGO) test --locked --test clients

# Where the emulated machine is.
CLIENTS_VM ?= /var/tmp/k6u-clients-vm
# A part of their names; empty for all.
ROWS ?= flash_on_

.PHONY: test-clients-vm
test-clients-vm: ## run those that need VLAN or PPP on Debian's kernel in an emulated machine (root, amd64; ROWS= runs all)
	scripts/client-tools.sh
	$(CARGO) test --locked --test clients --no-run
	scripts/test-clients-vm.sh $(CLIENTS_VM) "$$($(CARGO) test --locked --test clients --no-run 2>&1 | \
		sed -n 's/.*Executable.*(\(.*\))$$/\1/p')" $(ROWS)

.PHONY: lint
lint: ## check format, clippy, documentation and scripts; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; \
	else echo "SKIPPED, NOT PASSED: shellcheck is needed to check scripts/" >&2; fi

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
ARCH := $(firstword $(subst -, ,$(HOST)))
MUSL := $(patsubst %-gnu,%-musl,$(HOST))
# musl where the toolchain has it, else glibc; both with the C library inside.
STATIC_TARGET ?= $(if $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(MUSL)/lib),$(MUSL),$(HOST))
STATIC := $(TARGET)/$(STATIC_TARGET)/release/k6u
# In bytes: 3.25 MiB with glibc, 2 MiB with musl.
BUDGET := $(if $(findstring musl,$(STATIC_TARGET)),2097152,3407872)
# No path of this machine gets into the binary: so it is the same wherever it is built.
REMAP := --remap-path-prefix=$(CURDIR)=/k6u --remap-path-prefix=$(abspath $(TARGET))=/k6u/target \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo

# glibc's static PIE has some 4000 relative relocations: packed, they take 2 KB in place of 98.
comma := ,
STATIC_FLAGS := -C target-feature=+crt-static $(REMAP) $(if $(findstring gnu,$(STATIC_TARGET)),-C link-arg=-Wl$(comma)-z$(comma)pack-relative-relocs)

.PHONY: static
static: ## build the static binary of this machine's architecture, and prove that it is static
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --release --locked --target $(STATIC_TARGET)
	@scripts/check-static.sh $(STATIC) $(BUDGET)

# Debian's own Rust toolchain builds for musl where rustup's has no such target. Needs root.
MUSL_ROOT ?= /var/tmp/k6u-musl-root
MUSL_TARGET := $(ARCH)-unknown-linux-musl
STATIC_MUSL := $(TARGET)/$(MUSL_TARGET)/release/k6u

.PHONY: static-musl
static-musl: $(MUSL_ROOT)/ready ## build the musl binary in a Debian sid root (needs root and debootstrap)
	scripts/musl-cargo.sh $(MUSL_ROOT) $(MUSL_TARGET)
	install -D $(MUSL_ROOT)/target/$(MUSL_TARGET)/release/k6u $(STATIC_MUSL)
	@scripts/check-static.sh $(STATIC_MUSL) 2097152

$(MUSL_ROOT)/ready:
	scripts/musl-root.sh $(MUSL_ROOT)

.PHONY: test-boards
test-boards: ## run unit tests and scenarios on emulated arm64 and armv7 machines (needs root; 45 minutes)
	scripts/test-boards.sh $(MUSL_ROOT) $(MACHINES)

.PHONY: bench-tools-musl
bench-tools-musl: static-musl
	scripts/musl-cargo.sh $(MUSL_ROOT) $(MUSL_TARGET) --example rounds
	install -D $(MUSL_ROOT)/target/$(MUSL_TARGET)/release/examples/rounds $(ROUNDS_MUSL)
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench

.PHONY: test-musl
test-musl: bench-tools-musl ## run the scenario tests, the image test and the bench on the musl binary
	K6U_BIN=$(abspath $(STATIC_MUSL)) $(CARGO) test --locked --test scenarios
	$(MAKE) test-image BINARY=$(STATIC_MUSL)
	$(TARGET)/release/bench $(STATIC_MUSL) $(ROUNDS_MUSL) $(CRATES) short

ROUNDS := $(TARGET)/$(STATIC_TARGET)/release/examples/rounds
ROUNDS_MUSL := $(TARGET)/$(MUSL_TARGET)/release/examples/rounds
CRATES = $$($(CARGO) tree --locked -p k6u -e normal --prefix none | sed 's/ .*//' | sort -u | grep -vc '^k6u$$')

.PHONY: bench-tools
bench-tools: static
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --release --locked --target $(STATIC_TARGET) --example rounds
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench

.PHONY: bench
bench: bench-tools ## measure everything against the budget, first on the musl binary; target/bench/ has JSON and charts
ifneq ($(STATIC_TARGET),$(MUSL_TARGET))
	@if test -e $(MUSL_ROOT)/ready; then \
		$(MAKE) bench-tools-musl && $(TARGET)/release/bench $(STATIC_MUSL) $(ROUNDS_MUSL) $(CRATES) full; \
	else echo "SKIPPED, NOT PASSED: the musl binary, which users run, is not measured: make static-musl makes it" >&2; fi
endif
	@$(TARGET)/release/bench $(STATIC) $(ROUNDS) $(CRATES) full

.PHONY: bench-short
bench-short: bench-tools ## the figures that do not depend on the machine's speed
	@$(TARGET)/release/bench $(STATIC) $(ROUNDS) $(CRATES) short

.PHONY: test-confined
test-confined: static ## run k6u as user 1000 in an empty read-only root under a seccomp filter
	K6U_BIN=$(abspath $(STATIC)) $(CARGO) test --quiet --locked --test scenarios -- alone_in_an_empty_root

.PHONY: soak
soak: build ## 2,000 renumberings on three nodes with 5% faults; takes half an hour
	K6U_BIN=$(abspath $(TARGET))/release/k6u $(CARGO) test --quiet --locked --test scenarios -- --ignored --nocapture two_thousand

# Seconds for each target.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## look for inputs that break k6u, a minute for each kind (needs rustup's nightly and cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked cargo-fuzz
	for target in answers netlink yaml headers; do \
		mkdir -p $(TARGET)/fuzz/$$target && \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(TARGET)/fuzz/build $$target \
			$(TARGET)/fuzz/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=32768 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

# Nodes; 300 take two minutes.
NODES ?= 1 2 3 10 30 100 300
# Stories of each kind of trouble and each small size; 100 take ten minutes.
SEEDS ?= 100
SIMULATION = $(CARGO) test --quiet --locked --test simulation -- --ignored

# Seven seeds of each fault, and large clusters.
.PHONY: test-simulation
test-simulation: ## run a hundred random scenarios of each small size, and days of large clusters, in virtual time
	K6U_SEEDS=7 $(CARGO) test --locked --test simulation -- --include-ignored whatever_happens days_of cases::

.PHONY: simulate
simulate: ## simulate clusters of NODES nodes and thousands of faults in virtual time; prints load and delays
	K6U_NODES="$(NODES)" $(SIMULATION) --nocapture table
	K6U_SEEDS=$(SEEDS) $(SIMULATION) thousands_of_stories
	K6U_PAIR_SEEDS=6 $(SIMULATION) pairs_of_faults

IMAGE_REPO ?= registry.fuwafuwatime.moe/concord/k6u
IMAGE_TAG ?= $(VERSION)
PLATFORMS ?= linux/amd64,linux/arm64,linux/arm/v7
IMAGE := $(IMAGE_REPO):$(IMAGE_TAG)
# Whichever is there; podman and docker take the same words for all that is needed of them here.
ENGINE ?= $(notdir $(firstword $(shell command -v podman buildah docker 2>/dev/null)))
IMAGE_ARGS := --build-arg VERSION=$(VERSION) --build-arg REVISION=$(K6U_COMMIT)

.PHONY: engine
engine:
	@test -n "$(ENGINE)" || { echo "no podman, buildah or docker is here: install one of them" >&2; exit 1; }

.PHONY: image
image: engine ## build the image for this machine's platform (IMAGE_REPO, IMAGE_TAG)
	$(ENGINE) build $(IMAGE_ARGS) -f Containerfile -t $(IMAGE) .

.PHONY: push
push: engine ## push the image, or the manifest list of image-all
ifeq ($(ENGINE),docker)
	docker push $(IMAGE)
else
	if $(ENGINE) manifest inspect $(IMAGE) >/dev/null 2>&1; \
	then $(ENGINE) manifest push --all $(IMAGE) docker://$(IMAGE); \
	else $(ENGINE) push $(IMAGE); fi
endif

.PHONY: image-all
image-all: engine ## build a manifest list of PLATFORMS; foreign ones need qemu's binfmt handlers
ifeq ($(ENGINE),docker)
	docker buildx build --platform $(PLATFORMS) $(IMAGE_ARGS) -f Containerfile -t $(IMAGE) .
else
	$(ENGINE) manifest rm $(IMAGE) 2>/dev/null || true
	$(ENGINE) build --platform $(PLATFORMS) $(IMAGE_ARGS) -f Containerfile --manifest $(IMAGE) .
endif

# The binary that the image test puts into the image.
BINARY ?= $(STATIC)

.PHONY: test-image
test-image: $(if $(filter $(STATIC),$(BINARY)),static) ## run the image's last stage, with a local static binary, in a real container (needs root)
	@scripts/test-image.sh $(BINARY) $(VERSION) $(K6U_COMMIT)

.PHONY: e2e
e2e: static ## run the main job on a real control plane: etcd and kube-apiserver from KUBEBUILDER_ASSETS
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin e2e -- $(STATIC)

CILIUM ?= 1.18.0

.PHONY: e2e-kind
e2e-kind: ## run the main job on kind with Cilium (needs docker, kind, helm, kubectl; CILIUM=version)
	scripts/e2e-kind.sh $(CILIUM)

INSTALL := $(TARGET)/dist/install.yaml

$(INSTALL): $(wildcard manifests/*.yaml) scripts/install-yaml.sh
	scripts/install-yaml.sh $@

.PHONY: check-install
check-install: $(INSTALL) ## check that the manifests run this release and that install.yaml is what kustomize makes of them
	@scripts/check-install.sh $(INSTALL) $(VERSION)

.PHONY: check-monitoring
check-monitoring: ## check the alert rules, on series made of what k6u writes (promtool)
	@if command -v promtool >/dev/null; then \
		promtool check rules manifests/monitoring/alerts.yaml && $(CARGO) test --quiet --locked --test monitoring; \
	else echo "SKIPPED, NOT PASSED: promtool (Debian: prometheus) is needed to check the alert rules" >&2; fi

CYCLONEDX := $(abspath $(TARGET))/tools/bin/cargo-cyclonedx

$(CYCLONEDX):
	$(CARGO) install --quiet --locked --root $(TARGET)/tools --version 0.5.9 cargo-cyclonedx

.PHONY: dist
dist: static check-install $(CYCLONEDX) ## write archive, manifests, SBOM and SHA256SUMS to dist/; the same bytes wherever it runs
	scripts/dist.sh $(STATIC) $(STATIC_TARGET) $(INSTALL) $(VERSION) $(CYCLONEDX)

.PHONY: check-dist
check-dist: $(CYCLONEDX) ## build dist twice, in two folders, and compare the bytes
	scripts/check-dist.sh $(TARGET)/twice $(CYCLONEDX)

.PHONY: ci
ci: ci-tools lint test test-simulation test-confined test-routers demo test-image check-install check-monitoring bench-short ## install what is missing, then everything that a change has to pass

.PHONY: ci-tools
ci-tools:
	@scripts/ci-tools.sh

PODS := -n kube-system -l app.kubernetes.io/name=k6u

.PHONY: install
install: ## install into the current cluster, and wait until it runs
	$(KUBECTL) apply --server-side --force-conflicts --field-manager=k6u -f manifests/crds.yaml
	$(KUBECTL) wait --for=condition=Established --timeout=60s -f manifests/crds.yaml
	$(KUBECTL) apply -k manifests
	@$(KUBECTL) -n kube-system rollout status daemonset/k6u --timeout=180s || { \
		$(KUBECTL) get pods $(PODS) -o wide; \
		echo "k6u does not run on every node: kubectl describe pods $(PODS) says why" >&2; exit 1; }
	@$(KUBECTL) -n kube-system get daemonset k6u
	@scripts/next-steps.sh

# With the rights of the components, which another ServiceAccount of that name would inherit.
define remove-k6u
$(KUBECTL) delete --ignore-not-found -k manifests
$(KUBECTL) delete --ignore-not-found --all-namespaces -l app.kubernetes.io/name=k6u \
	clusterroles,clusterrolebindings,roles,rolebindings
endef

.PHONY: uninstall
uninstall: ## remove k6u from the current cluster; CRDs, their objects and the CiliumCIDRGroups stay
	$(remove-k6u)
	@echo "Still there: the CRDs with every IP6UpdateConfig and IP6UpdateNodeConfig (make purge deletes them),"
	@echo "and the CiliumCIDRGroups with what they hold."

.PHONY: purge
purge: ## remove k6u, its CRDs and every object of these kinds; lists them and asks for CONFIRM=yes
	@echo "This removes k6u and deletes its CRDs, and with them:"
	@$(KUBECTL) get ip6updateconfigs,ip6updatenodeconfigs --ignore-not-found -o name || true
	@test "$(CONFIRM)" = yes || { echo "Nothing is deleted yet. To do it: make purge CONFIRM=yes" >&2; exit 1; }
	$(remove-k6u)
	$(KUBECTL) delete --ignore-not-found -f manifests/crds.yaml

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
