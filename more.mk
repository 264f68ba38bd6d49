# Targets that need root, other tools or half an hour. Included by Makefile; `make help-more` prints them.

## The static binary

HOST := $(shell rustc --print host-tuple 2>/dev/null)
MUSL_TARGET := $(subst -gnu,-musl,$(HOST))
# Users run the musl binary. A toolchain without rust-src or musl-gcc builds a static one with glibc instead, which is
# enough for tests; `make static-musl` builds the musl binary there too.
RUST_SRC := $(wildcard $(shell rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std)
STATIC_TARGET ?= $(if $(and $(RUST_SRC),$(shell command -v musl-gcc 2>/dev/null)),$(MUSL_TARGET),$(HOST))
STATIC := $(TARGET)/$(STATIC_TARGET)/release/k6u
STATIC_MUSL := $(TARGET)/$(MUSL_TARGET)/release/k6u
# In bytes: 2 MiB with musl, 3.25 MiB with glibc.
BUDGET := $(if $(findstring musl,$(STATIC_TARGET)),2097152,3407872)

# Debian's own toolchain, for machines whose toolchain cannot build for musl.
MUSL_ROOT ?= /var/tmp/k6u-musl-root
ifeq ($(STATIC_TARGET),$(MUSL_TARGET))
BUILD_MUSL := scripts/build-static.sh $(MUSL_TARGET)
MUSL_READY :=
else
BUILD_MUSL := scripts/musl-cargo.sh $(MUSL_ROOT) $(MUSL_TARGET)
MUSL_READY := $(MUSL_ROOT)/ready
endif

$(MUSL_ROOT)/ready:
	scripts/musl-root.sh $(MUSL_ROOT)

.PHONY: static-musl
static-musl: $(MUSL_READY) ## build the binary that users run, in a Debian root where the toolchain cannot (root, debootstrap)
	$(BUILD_MUSL)
	@scripts/check-static.sh $(STATIC_MUSL) 2097152

## Measurements

CRATES = $$($(CARGO) tree --locked -p k6u -e normal --prefix none | sed 's/ .*//' | sort -u | grep -vc '^k6u$$')
BENCH := $(TARGET)/release/bench
ROUNDS := $(TARGET)/$(STATIC_TARGET)/release/examples/rounds
ROUNDS_MUSL := $(TARGET)/$(MUSL_TARGET)/release/examples/rounds

.PHONY: bench-tools
bench-tools: static
	scripts/build-static.sh $(STATIC_TARGET) --example rounds
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench

.PHONY: bench-tools-musl
bench-tools-musl: static-musl
	$(BUILD_MUSL) --example rounds
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench

## Tests

.PHONY: test-clients
test-clients: ## run the tests with dhcpcd, systemd-networkd and NetworkManager on the node (root, five minutes)
	scripts/client-tools.sh
	$(CARGO) test --locked --test clients

# The folder of the emulated machine.
CLIENTS_VM ?= /var/tmp/k6u-clients-vm
# The rows whose names contain this; empty for all.
ROWS ?= flash_on_

.PHONY: test-clients-vm
test-clients-vm: ## run the rows with VLAN or PPP on Debian's kernel in an emulated machine (root, amd64; ROWS= runs all)
	scripts/client-tools.sh
	$(CARGO) test --locked --test clients --no-run
	scripts/test-clients-vm.sh $(CLIENTS_VM) "$$($(CARGO) test --locked --test clients --no-run 2>&1 | \
		sed -n 's/.*Executable.*(\(.*\))$$/\1/p')" $(ROWS)

.PHONY: test-boards
test-boards: ## run unit tests and scenarios on emulated arm64 and armv7 machines (root, 45 minutes)
	scripts/test-boards.sh $(MUSL_ROOT) $(MACHINES)

.PHONY: test-musl
test-musl: bench-tools-musl ## run the scenario tests, the image test and the bench on the binary that users run (root)
	K6U_BIN=$(abspath $(STATIC_MUSL)) $(CARGO) test --locked --test scenarios
	$(MAKE) test-image BINARY=$(STATIC_MUSL)
	$(BENCH) $(STATIC_MUSL) $(ROUNDS_MUSL) $(CRATES) short

# The binary that the image test puts into the image.
BINARY ?= $(STATIC)

.PHONY: test-image
test-image: $(if $(filter $(STATIC),$(BINARY)),static) ## run the image's last stage, with a local static binary, in a real container (root)
	@scripts/test-image.sh $(BINARY) $(VERSION) $(K6U_COMMIT)

.PHONY: e2e
e2e: static ## run the main job on a real control plane: etcd and kube-apiserver from KUBEBUILDER_ASSETS
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin e2e -- $(STATIC)

CILIUM ?= 1.18.0

.PHONY: e2e-kind
e2e-kind: ## run the main job on kind with Cilium (docker, kind, helm, kubectl; CILIUM=version)
	scripts/e2e-kind.sh $(CILIUM)

.PHONY: soak
soak: build ## run 2,000 renumberings on three nodes with 5% faults (half an hour)
	K6U_BIN=$(abspath $(TARGET))/release/k6u $(CARGO) test --quiet --locked --test scenarios -- --ignored --nocapture two_thousand

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## look for inputs that break k6u, a minute for each kind (rustup's nightly, cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked cargo-fuzz
	for target in answers netlink yaml headers; do \
		mkdir -p $(TARGET)/fuzz/$$target && \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(TARGET)/fuzz/build $$target \
			$(TARGET)/fuzz/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=32768 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

# Numbers of nodes; 300 take two minutes.
NODES ?= 1 2 3 10 30 100 300
# Scenarios of each kind of fault and each small size; 100 take ten minutes.
SEEDS ?= 100
SIMULATION = $(CARGO) test --quiet --locked --test simulation -- --ignored

.PHONY: simulate
simulate: ## simulate clusters of NODES nodes and thousands of scenarios in virtual time; prints load and delays
	K6U_NODES="$(NODES)" $(SIMULATION) --nocapture table
	K6U_PAIR_SEEDS=6 $(SIMULATION) pairs_of_faults
	K6U_SEEDS=$(SEEDS) $(SIMULATION) thousands_of_scenarios

## Image

IMAGE_REPO ?= registry.fuwafuwatime.moe/concord/k6u
IMAGE_TAG ?= $(VERSION)
PLATFORMS ?= linux/amd64,linux/arm64,linux/arm/v7
IMAGE := $(IMAGE_REPO):$(IMAGE_TAG)
# The first that is installed; podman and docker take the same arguments here.
ENGINE ?= $(notdir $(firstword $(shell command -v podman buildah docker 2>/dev/null)))
IMAGE_ARGS := --build-arg VERSION=$(VERSION) --build-arg REVISION=$(K6U_COMMIT)

.PHONY: engine
engine:
	@test -n "$(ENGINE)" || { echo "install podman, buildah or docker" >&2; exit 1; }

.PHONY: image
image: engine ## build the image for this machine's platform (IMAGE_REPO, IMAGE_TAG)
	$(ENGINE) build $(IMAGE_ARGS) -f Containerfile -t $(IMAGE) .

.PHONY: image-all
image-all: engine ## build a manifest list of PLATFORMS; foreign ones need qemu's binfmt handlers
ifeq ($(ENGINE),docker)
	docker buildx build --platform $(PLATFORMS) $(IMAGE_ARGS) -f Containerfile -t $(IMAGE) .
else
	$(ENGINE) manifest rm $(IMAGE) 2>/dev/null || true
	$(ENGINE) build --platform $(PLATFORMS) $(IMAGE_ARGS) -f Containerfile --manifest $(IMAGE) .
endif

.PHONY: push
push: engine ## push the image, or the manifest list of image-all
ifeq ($(ENGINE),docker)
	docker push $(IMAGE)
else
	if $(ENGINE) manifest inspect $(IMAGE) >/dev/null 2>&1; \
	then $(ENGINE) manifest push --all $(IMAGE) docker://$(IMAGE); \
	else $(ENGINE) push $(IMAGE); fi
endif

## Release

INSTALL := $(TARGET)/dist/install.yaml

$(INSTALL): $(wildcard manifests/*.yaml) scripts/install-yaml.sh
	scripts/install-yaml.sh $@

CYCLONEDX := $(abspath $(TARGET))/tools/bin/cargo-cyclonedx

$(CYCLONEDX):
	$(CARGO) install --quiet --locked --root $(TARGET)/tools --version 0.5.9 cargo-cyclonedx

.PHONY: dist
dist: static-musl check-install $(CYCLONEDX) ## write archive, manifests, SBOM and SHA256SUMS to dist/; the same bytes wherever it runs
	scripts/dist.sh $(STATIC_MUSL) $(MUSL_TARGET) $(INSTALL) $(VERSION) $(CYCLONEDX)

.PHONY: check-dist
check-dist: $(CYCLONEDX) ## build dist twice, in two folders, and compare the bytes
	scripts/check-dist.sh $(TARGET)/twice $(CYCLONEDX)

## The Helm chart

# Exported, so that the clones of check-dist use the same folder.
export HELM_VENV ?= $(abspath $(TARGET))/tools/helm
# The Python with Helm's library, with which `make e2e` tests the chart.
export HELM_PYTHON := $(HELM_VENV)/bin/python
CHART := $(TARGET)/dist/k6u-$(VERSION).tgz
CHART_REPO ?= oci://$(patsubst %/,%,$(dir $(IMAGE_REPO)))/charts

$(HELM_PYTHON): scripts/helm-tools.sh
	scripts/helm-tools.sh $(HELM_VENV)

# Phony, because the archive contains the time of the last commit.
.PHONY: $(CHART)
$(CHART): $(HELM_PYTHON)
	scripts/package-chart.sh $(HELM_PYTHON) $(@D)

dist: $(CHART)

.PHONY: chart
chart: $(CHART) ## package the Helm chart into dist/
	install -D -m 644 -t dist $(CHART)

.PHONY: push-chart
push-chart: $(CHART) ## push the chart to CHART_REPO, an oci:// address
	$(HELM_PYTHON) scripts/helm.py push $(CHART) $(CHART_REPO)

.PHONY: chart-sync
chart-sync: ## write the chart's copies of manifests/: CRDs, their schemas, the rights of the components
	$(CARGO) run --quiet --locked -p k6u-testkit --bin chart-sync -- .

.PHONY: check-chart
check-chart: ## test the Helm chart with Helm's library (helm-python-sdk)
	@scripts/check-chart.sh $(HELM_PYTHON)
