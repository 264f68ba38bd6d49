# k6u: everything is done by make. `make` alone says what there is.

CARGO ?= cargo
KUBECTL ?= kubectl
# What `k6u --version` says after the version.
export K6U_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the release binary, target/release/k6u
	$(CARGO) build --release --locked

.PHONY: demo
demo: build ## show the main job on an embedded API server (20 s, no root)
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin demo -- target/release/k6u

.PHONY: test
test: ## run all tests that need no root, no network and no cluster
	$(CARGO) test --locked --workspace

.PHONY: test-routers
test-routers: ## run the tests with real routers: radvd, dnsmasq, dhcpcd
	$(CARGO) test --locked --test routers

.PHONY: lint
lint: ## check format, clippy and documentation; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
ARCH := $(firstword $(subst -, ,$(HOST)))
MUSL := $(patsubst %-gnu,%-musl,$(HOST))
# musl where the toolchain has it, else glibc; both with the C library inside.
STATIC_TARGET ?= $(if $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(MUSL)/lib),$(MUSL),$(HOST))
STATIC := target/$(STATIC_TARGET)/release/k6u
# No path of this machine gets into the binary: so it is the same wherever it is built.
REMAP := --remap-path-prefix=$(CURDIR)=/k6u --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo

# glibc's static PIE has some 4000 relative relocations: packed, they take 2 KB in place of 98.
comma := ,
STATIC_FLAGS := -C target-feature=+crt-static $(REMAP) $(if $(findstring gnu,$(STATIC_TARGET)),-C link-arg=-Wl$(comma)-z$(comma)pack-relative-relocs)

.PHONY: static
static: ## build the static binary of this machine's architecture, and prove that it is static
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --release --locked --target $(STATIC_TARGET)
	@$(call prove-static,$(STATIC))
	@test $$(stat -c %s $(STATIC)) -le 3145728 || { echo "it is over its budget of 3 MiB" >&2; exit 1; }

define prove-static
if readelf --program-headers --dynamic $(1) | grep -E 'INTERP|NEEDED'; then \
	echo "$(1) is not static" >&2; exit 1; \
fi; \
echo "$(1) is static, $$(stat -c %s $(1)) bytes"
endef

# Debian's own Rust toolchain builds for musl where rustup's has no such target. Needs root.
MUSL_ROOT ?= /var/tmp/k6u-musl-root
MUSL_TARGET := $(ARCH)-unknown-linux-musl
STATIC_MUSL := target/$(MUSL_TARGET)/release/k6u

.PHONY: static-musl
static-musl: $(MUSL_ROOT)/ready ## build the musl binary in a Debian sid root (needs root and debootstrap)
	rm -rf $(MUSL_ROOT)/build && mkdir -p $(MUSL_ROOT)/build target/$(MUSL_TARGET)/release/examples
	tar -c --exclude=./target --exclude=./.git . | tar -x -C $(MUSL_ROOT)/build
	$(call musl-cargo,)
	cp $(MUSL_ROOT)/target/$(MUSL_TARGET)/release/k6u $(STATIC_MUSL)
	@$(call prove-static,$(STATIC_MUSL))
	@test $$(stat -c %s $(STATIC_MUSL)) -le 2097152 || { echo "it is over its budget of 2 MiB" >&2; exit 1; }

# Builds there, with further arguments.
musl-cargo = chroot $(MUSL_ROOT) env -i HOME=/root PATH=/usr/bin:/bin K6U_COMMIT=$(K6U_COMMIT) \
	SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt \
	RUSTC_BOOTSTRAP=1 CC_$(subst -,_,$(MUSL_TARGET))=musl-gcc \
	CARGO_TARGET_$(shell echo $(MUSL_TARGET) | tr a-z- A-Z_)_LINKER=musl-gcc \
	RUSTFLAGS="-C target-feature=+crt-static -C link-self-contained=no -L /musl" \
	cargo build --manifest-path /build/Cargo.toml --target-dir /target --release --locked \
	-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target $(MUSL_TARGET) $(1)

$(MUSL_ROOT)/ready:
	debootstrap --variant=minbase --include=rustc,cargo,rust-src,musl-tools,gcc,libc6-dev sid $(MUSL_ROOT)
	mkdir -p $(MUSL_ROOT)/musl $(MUSL_ROOT)/etc/ssl/certs
	cp /etc/ssl/certs/ca-certificates.crt $(MUSL_ROOT)/etc/ssl/certs/
	cp /etc/resolv.conf $(MUSL_ROOT)/etc/resolv.conf
	# std asks for libunwind. panic=abort never unwinds, so gcc's own with a stub in place of glibc's part will do.
	echo 'int _dl_find_object(void *pc, void *result) { (void)pc; (void)result; return -1; }' > $(MUSL_ROOT)/musl/stub.c
	chroot $(MUSL_ROOT) sh -c 'cd /musl && musl-gcc -c stub.c && cp $$(gcc -print-file-name=libgcc_eh.a) libunwind.a && ar r libunwind.a stub.o'
	touch $@

.PHONY: test-musl
test-musl: static-musl ## run the scenario tests, the image test and the bench on the musl binary
	K6U_BIN=$(CURDIR)/$(STATIC_MUSL) $(CARGO) test --locked --test scenarios
	$(MAKE) test-image BINARY=$(STATIC_MUSL)
	$(call musl-cargo,--example rounds)
	cp $(MUSL_ROOT)/target/$(MUSL_TARGET)/release/examples/rounds target/$(MUSL_TARGET)/release/examples/
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench
	target/release/bench $(STATIC_MUSL) target/$(MUSL_TARGET)/release/examples/rounds $(CRATES) short

ROUNDS := target/$(STATIC_TARGET)/release/examples/rounds
CRATES = $$($(CARGO) tree --locked -p k6u -e normal --prefix none | sed 's/ .*//' | sort -u | grep -vc '^k6u$$')

.PHONY: bench-tools
bench-tools: static
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --release --locked --target $(STATIC_TARGET) --example rounds
	$(CARGO) build --quiet --locked --release -p k6u-testkit --bin bench

.PHONY: bench
bench: bench-tools ## measure everything against the budget, six minutes; target/bench/ has JSON and a chart
	@target/release/bench $(STATIC) $(ROUNDS) $(CRATES) full

.PHONY: bench-short
bench-short: bench-tools ## the figures that do not depend on the machine's speed
	@target/release/bench $(STATIC) $(ROUNDS) $(CRATES) short

.PHONY: test-confined
test-confined: static ## run k6u as user 1000 in an empty read-only root under a seccomp filter
	K6U_BIN=$(CURDIR)/$(STATIC) $(CARGO) test --quiet --locked --test scenarios -- alone_in_an_empty_root

.PHONY: soak
soak: build ## 2,000 renumberings on three nodes with 5% faults; takes half an hour
	K6U_BIN=$(CURDIR)/target/release/k6u $(CARGO) test --quiet --locked --test scenarios -- --ignored --nocapture two_thousand

# Seconds for each target.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## look for inputs that break k6u, a minute for each kind (needs rustup's nightly and cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked cargo-fuzz
	for target in answers netlink yaml headers; do \
		mkdir -p target/fuzz/$$target && \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz/build $$target \
			target/fuzz/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=32768 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

# Nodes; 5000 take four minutes more, most of them the simulated API server's.
NODES ?= 1 2 3 10 30 100 300 1000

.PHONY: simulate
simulate: ## simulate clusters of NODES nodes in virtual time; prints the load and how soon groups are right
	K6U_NODES="$(NODES)" $(CARGO) test --quiet --release --locked --test simulation -- --ignored --nocapture table

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
IMAGE_TEST := localhost/k6u-test:$(VERSION)

.PHONY: test-image
test-image: $(if $(filter $(STATIC),$(BINARY)),static) ## run the image's last stage, with a local static binary, in a real container (needs root)
	@if command -v buildah >/dev/null && command -v podman >/dev/null; then \
		rm -rf target/image && install -D $(BINARY) target/image/image/k6u && \
		sed -n '/^FROM scratch/,$$p' Containerfile | sed 's/--from=build //' > target/image/Containerfile && \
		buildah --storage-driver=vfs build --isolation=chroot $(IMAGE_ARGS) -t $(IMAGE_TEST) target/image >target/image/log 2>&1 \
			|| { cat target/image/log; exit 1; }; \
		buildah --storage-driver=vfs images $(IMAGE_TEST); \
		$(CARGO) run --quiet --locked -p k6u-testkit --bin image-test -- $(IMAGE_TEST) $(VERSION); \
	else \
		echo "SKIPPED, NOT PASSED: buildah and podman are needed to test the image" >&2; \
	fi

.PHONY: e2e
e2e: static ## run the main job on a real control plane: etcd and kube-apiserver from $$KUBEBUILDER_ASSETS
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin e2e -- $(STATIC)

# A cluster in Docker, for forges that have one. CILIUM 1.17 serves v2alpha1 only, 1.18 both.
CILIUM ?= 1.18.0
KIND := kind-k6u-e2e
E2E_CTL = $(KUBECTL) --context $(KIND)

.PHONY: e2e-kind
e2e-kind: ## run the main job on kind with Cilium (needs docker, kind, helm, kubectl; CILIUM=version)
	printf '%s\n' 'kind: Cluster' 'apiVersion: kind.x-k8s.io/v1alpha4' \
		'networking: {ipFamily: dual, disableDefaultCNI: true}' | kind create cluster --name k6u-e2e --config -
	helm --kube-context $(KIND) install cilium cilium --repo https://helm.cilium.io --version $(CILIUM) \
		--namespace kube-system --set ipv6.enabled=true --set operator.replicas=1 --wait
	$(MAKE) image ENGINE=docker IMAGE_REPO=localhost/k6u IMAGE_TAG=e2e
	kind load docker-image --name k6u-e2e localhost/k6u:e2e
	$(KUBECTL) kustomize manifests | sed 's|image: .*|image: localhost/k6u:e2e|; s|imagePullPolicy: Always|imagePullPolicy: Never|' \
		| $(E2E_CTL) apply -f -
	$(E2E_CTL) wait --for=condition=Established crd -l app.kubernetes.io/name=k6u
	sed '/nodeSelector:/,+1d' manifests/examples/nodeconfig.yaml | $(E2E_CTL) apply -f - -f manifests/examples/config.yaml
	docker exec k6u-e2e-control-plane ip -6 address add 2001:db8:1234:5671::10/64 dev eth0
	$(E2E_CTL) -n kube-system rollout status daemonset/k6u --timeout=120s
	$(E2E_CTL) wait --for=condition=Ready ip6uc/ip6-update-config --timeout=60s
	test "$$($(E2E_CTL) get ciliumcidrgroup ip6-local-lan -o jsonpath='{.spec.externalCIDRs}' | tr -d '[]"')" \
		= 2001:db8:1234:5670::/64,2001:db8:1234:5671::/64,2001:db8:1234:5672::/64
	$(E2E_CTL) apply -f manifests/examples/networkpolicy.yaml
	kind delete cluster --name k6u-e2e

# In the order of manifests/kustomization.yaml; the tag is the version.
INSTALL := crds.yaml rbac.yaml daemonset.yaml

target/dist/install.yaml: $(addprefix manifests/,$(INSTALL)) Cargo.toml Makefile
	mkdir -p target/dist
	{ first=1; for file in $(INSTALL); do \
		[ "$$first" ] || echo '---'; first=; sed 's|\(image: .*\):latest|\1:$(VERSION)|' manifests/$$file; \
	done; } > $@

.PHONY: check-install
check-install: target/dist/install.yaml ## check that install.yaml is what kustomize makes of manifests/
	@if command -v $(KUBECTL) >/dev/null; then \
		rm -rf target/kustomize && mkdir -p target/kustomize && cp $< target/kustomize/ && \
		printf 'resources: [install.yaml]\n' > target/kustomize/kustomization.yaml && \
		$(KUBECTL) kustomize manifests | sed 's|\(image: .*\):latest|\1:$(VERSION)|' > target/kustomize/expected && \
		$(KUBECTL) kustomize target/kustomize > target/kustomize/actual && \
		diff target/kustomize/expected target/kustomize/actual && echo "install.yaml is what kustomize makes"; \
	else echo "SKIPPED, NOT PASSED: kubectl is needed to compare install.yaml with kustomize's output" >&2; fi

.PHONY: check-monitoring
check-monitoring: ## check the alert rules and what fires them (promtool)
	@if command -v promtool >/dev/null; then \
		promtool check rules manifests/monitoring/alerts.yaml && promtool test rules manifests/monitoring/alerts-test.yaml; \
	else echo "SKIPPED, NOT PASSED: promtool (Debian: prometheus) is needed to check the alert rules" >&2; fi

CYCLONEDX := target/tools/bin/cargo-cyclonedx
DIST_NAME := k6u-$(VERSION)-linux-$(ARCH)
# The time of everything in the archives: that of the last commit.
EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

$(CYCLONEDX):
	$(CARGO) install --quiet --locked --root target/tools --version 0.5.9 cargo-cyclonedx

.PHONY: dist
dist: static check-install $(CYCLONEDX) ## write archives, install.yaml, SBOM and SHA256SUMS to dist/; the same bytes wherever it runs
	rm -rf dist target/dist/$(DIST_NAME) && mkdir -p dist target/dist/$(DIST_NAME)
	SOURCE_DATE_EPOCH=$(EPOCH) $(CYCLONEDX) cyclonedx --quiet --format json --no-build-deps --target $(STATIC_TARGET) --override-filename k6u.cdx
	sed 's|$(CURDIR)|/k6u|g; /"serialNumber"/d' k6u.cdx.json > dist/k6u-$(VERSION).cdx.json
	rm k6u.cdx.json
	rm -f tests/support/k6u.cdx.json
	cp target/dist/install.yaml dist/install.yaml
	cp $(STATIC) LICENSE.md target/dist/install.yaml target/dist/$(DIST_NAME)/
	tar --sort=name --mtime=@$(EPOCH) --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
		-C target/dist -c $(DIST_NAME) | gzip -n9 > dist/$(DIST_NAME).tar.gz
	cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

.PHONY: check-dist
check-dist: $(CYCLONEDX) ## build dist twice, in two folders, and compare the bytes
	rm -rf target/twice && mkdir -p target/twice
	git clone -q . target/twice/one && git clone -q . target/twice/another-folder
	for folder in one another-folder; do \
		$(MAKE) -C target/twice/$$folder dist CYCLONEDX=$(CURDIR)/$(CYCLONEDX) >/dev/null || exit 1; \
	done
	sha256sum target/twice/*/dist/SHA256SUMS
	diff -r target/twice/one/dist target/twice/another-folder/dist && echo "both are the same to the byte"

.PHONY: ci
ci: ci-tools lint test test-confined test-routers demo test-image check-install check-monitoring bench-short ## install what is missing, then everything that a change has to pass

# Where Debian's package manager is not there or fails, whoever needs the package says that it was skipped.
have = ( for tool in $(1); do command -v $$tool >/dev/null || exit 1; done )
install = { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) >/dev/null; } || true

.PHONY: ci-tools
ci-tools:
	@$(call have,cc readelf) || $(call install,gcc libc6-dev binutils)
	@$(call have,podman buildah runc) || $(call install,podman buildah runc)
	@$(call have,promtool) || $(call install,prometheus)
	@$(call have,valgrind strace) || $(call install,valgrind strace)
	@$(call have,radvd dnsmasq dhcpcd ip nsenter) || $(call install,radvd dnsmasq-base dhcpcd-base iproute2 util-linux)
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy

.PHONY: install
install: ## install into the current cluster (kubectl apply -k manifests)
	$(KUBECTL) apply -k manifests

.PHONY: uninstall
uninstall: ## remove from the current cluster; the CiliumCIDRGroups stay
	$(KUBECTL) delete --ignore-not-found -k manifests

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
