# k6u: everything is done by make. `make` prints the targets of this file; those of more.mk, which need root, other
# tools or half an hour, are printed by `make help-more`.

export CARGO ?= cargo
export KUBECTL ?= kubectl
# The folder in which cargo builds, which it also reads from the environment.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The commit, which `k6u --version` shows after the version.
export K6U_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

.DEFAULT_GOAL := help
.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: help-more
help-more: ## print the targets of more.mk
	@$(MAKE) --no-print-directory help MAKEFILE_LIST=more.mk

include more.mk

.PHONY: build
build: ## build the release binary, target/release/k6u
	$(CARGO) build --release --locked

.PHONY: demo
demo: build ## show the main job on an embedded API server (20 s, no root)
	@$(CARGO) run --quiet --locked -p k6u-testkit --bin demo -- $(TARGET)/release/k6u $(DEMO_ARGS)

.PHONY: check-demo
check-demo: DEMO_ARGS := --check
check-demo: demo ## run the demo, and compare its log with tests/golden/demo.log (radvd)

.PHONY: test
test: ## run all tests that need no root, no network and no cluster
	$(CARGO) test --locked --workspace

.PHONY: test-long
test-long: ## run the scenarios that take minutes by nature
	$(CARGO) test --locked --test scenarios -- --ignored '[long]'

.PHONY: test-simulation
test-simulation: ## run a hundred random scenarios of each small size, and days of large clusters, in virtual time
	K6U_SEEDS=7 $(CARGO) test --locked --test simulation -- --include-ignored random_scenarios days_of cases::

.PHONY: test-confined
test-confined: static ## run k6u as user 1000 in an empty read-only root under a seccomp filter
	K6U_BIN=$(abspath $(STATIC)) $(CARGO) test --quiet --locked --test scenarios -- alone_in_an_empty_root

.PHONY: test-routers
test-routers: ## run the tests with real routers: radvd, dnsmasq, dhcpcd
	$(CARGO) test --locked --test routers

.PHONY: lint
lint: ## check format, clippy, documentation and scripts; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	# All targets do not include the tests that `make test` leaves out.
	$(CARGO) clippy --locked -p k6u --test '*' -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; \
	else scripts/skip.sh "shellcheck is needed to check scripts/"; fi

# The advisory database is a repository on the network, which `make ci` does without; the workflows check it.
CHECKS ?= bans licenses sources

.PHONY: deny
deny: ## check the dependencies by deny.toml (cargo-deny; CHECKS=advisories needs the network)
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check $(CHECKS); \
	else scripts/skip.sh "cargo-deny is needed to check the dependencies"; fi

.PHONY: bench
bench: bench-tools-musl ## measure the binary that users run against the budget; target/bench/ has JSON and charts
	@$(BENCH) $(STATIC_MUSL) $(ROUNDS_MUSL) $(CRATES) full

.PHONY: bench-short
bench-short: bench-tools ## measure what does not depend on the machine's speed
	@$(BENCH) $(STATIC) $(ROUNDS) $(CRATES) short

.PHONY: static
static: ## build the static binary for this machine's architecture and prove that it is static
	scripts/build-static.sh $(STATIC_TARGET)
	@scripts/check-static.sh $(STATIC) $(BUDGET)

.PHONY: check-install
check-install: $(INSTALL) ## check that the manifests run this release and that install.yaml equals kustomize's output
	@scripts/check-install.sh $(INSTALL) $(VERSION)

.PHONY: check-monitoring
check-monitoring: ## check the alert rules, on series from the objects that k6u writes (promtool)
	@if command -v promtool >/dev/null; then \
		promtool check rules manifests/monitoring/alerts.yaml && $(CARGO) test --quiet --locked --test monitoring; \
	else scripts/skip.sh "promtool (Debian: prometheus) is needed to check the alert rules"; fi

.PHONY: ci
ci: lint deny test test-long test-simulation test-confined test-routers check-demo test-image check-install check-chart check-monitoring bench-short ## run everything that a change has to pass; scripts/ci-tools.sh installs what it needs

PODS := -n kube-system -l app.kubernetes.io/name=k6u

.PHONY: install
install: ## install into the current cluster, and wait until it runs
	$(KUBECTL) apply --server-side --force-conflicts --field-manager=k6u -f manifests/crds.yaml
	@# kubectl fails at a CRD that has no conditions yet.
	$(KUBECTL) wait --for=condition=Established --timeout=60s -f manifests/crds.yaml || { sleep 2; \
		$(KUBECTL) wait --for=condition=Established --timeout=60s -f manifests/crds.yaml; }
	$(KUBECTL) apply -k manifests
	@$(KUBECTL) -n kube-system rollout status daemonset/k6u --timeout=180s || { \
		$(KUBECTL) get pods $(PODS) -o wide; \
		echo "k6u does not run on every node: kubectl describe pods $(PODS) says why" >&2; exit 1; }
	@$(KUBECTL) -n kube-system get daemonset k6u
	@scripts/next-steps.sh

# Also deletes the rights of the components, which another ServiceAccount of that name would inherit.
define remove-k6u
$(KUBECTL) delete --ignore-not-found -k manifests
$(KUBECTL) delete --ignore-not-found --all-namespaces -l app.kubernetes.io/name=k6u \
	clusterroles,clusterrolebindings,roles,rolebindings
endef

.PHONY: uninstall
uninstall: ## remove k6u from the current cluster; CRDs, their objects and the CiliumCIDRGroups stay
	$(remove-k6u)
	@echo "Still there: the CRDs with every IP6UpdateConfig and IP6UpdateNodeConfig (make purge deletes them),"
	@echo "and the CiliumCIDRGroups with their content."
	@echo "READY stays as it is, even if it is True: k6u no longer updates it. observedTime says when a node last"
	@echo "confirmed its prefixes: kubectl get ip6unc -o yaml"

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

