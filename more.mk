## The Helm chart

# Exported, so that the clones of check-dist need none of their own.
export HELM_VENV ?= $(abspath $(TARGET))/tools/helm
# What has Helm's library: `make e2e` tries the chart with it.
export HELM_PYTHON := $(HELM_VENV)/bin/python
CHART := $(TARGET)/dist/k6u-$(VERSION).tgz
CHART_REPO ?= oci://$(patsubst %/,%,$(dir $(IMAGE_REPO)))/charts

$(HELM_PYTHON): scripts/helm-tools.sh
	scripts/helm-tools.sh $(HELM_VENV)

# Always: the time of the last commit is in it.
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
chart-sync: ## write into the chart what it repeats of manifests/: CRDs, their schemas, the rights of the components
	$(CARGO) run --quiet --locked -p k6u-testkit --bin chart-sync -- .

.PHONY: check-chart
check-chart: ## test the Helm chart with Helm's library (helm-python-sdk)
	@scripts/check-chart.sh $(HELM_PYTHON)
