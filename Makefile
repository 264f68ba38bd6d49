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

.PHONY: lint
lint: ## check format, clippy and documentation; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

.PHONY: ci
ci: ci-tools lint test demo ## install what is missing, then everything that a change has to pass

.PHONY: ci-tools
ci-tools:
	@command -v cc >/dev/null || (apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev)
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
