# Each target sets up all that it needs, in .venv, from constraints.txt; Python 3.11 or later is enough.
#
#   make demo        train a model over Greengrass devices on this machine
#   make test        everything that can be tested here          make test-fast   the quick unit tests
#                    with real data, where there are: FEDGRASS_DATA=/folder/of/data/sets make test
#   make prose       words to avoid in docstrings, comments and pages, with what to write instead
#   make check       style, types, who may import whom, the template
#   make test-deploy what is deployed to AWS: SAM's checks and its build, checkov, hadolint (two minutes, and one to
#                    install)
#   make test-tracking  MLflow's client against a real MLflow server, TensorBoard's files against its own reader (half
#                    a minute, and one and 900 MB to install)
#   make test-ray    grids of simulations on a real Ray of this machine (two minutes, and half a one and 300 MB to
#                    install)
#   make bench       the benchmarks, in less than an hour (make bench OPTIONS=--quick: under a minute each;
#                    OPTIONS=--record writes docs/benchmarks.json, from which docs/benchmarks.md is written)
#   make requirements  pins what devices install, with hashes, after constraints.txt has changed
#   make chaos       200 rounds while everything goes wrong that can (make chaos ROUNDS=20 SEED=7: two minutes)
#                    the same functions over ports in memory, 2,000 seeded schedules: make chaos SCHEDULES=2000
#
# On x86-64 Linux PyPI's torch brings 2 GB for NVIDIA's GPUs; the build without them comes from PyTorch's own
# index:   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
OPTIONS ?=
ROUNDS ?= 200
SCHEDULES ?=
SEED ?= 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
NO_PACKAGES := "the packages could not be installed: see above; is PyPI reached (proxy, PIP_INDEX_URL), is the disk full?"
NO_VENV := "$(PYTHON) has no venv: on Debian and Ubuntu, apt install python3-venv"

# The browser of the dashboard's tests, where apt can install it: they are skipped without one.
BROWSER := command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
    && apt-get --quiet --quiet update && DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet install --yes \
    --no-install-recommends chromium chromium-driver >/dev/null; } \
    || echo "no chromium and chromium-driver: the tests of the dashboard in a browser will be skipped"

.PHONY: demo test test-fast check test-deploy test-tracking test-ray bench prose chaos requirements clean

demo: $(VENV)/.for-demo
	$(BIN)/fedgrass demo $(OPTIONS)

test: $(VENV)/.for-tests
	$(BIN)/python -m pytest $(OPTIONS)

test-fast: $(VENV)/.for-tests
	$(BIN)/python -m pytest tests/unit tests/emulator/unit -m "not slow" --hypothesis-profile=fast $(OPTIONS)

check: $(VENV)/.for-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 components fedgrass/federation
	$(BIN)/lint-imports
	$(BIN)/python .ci/prose.py --summary
	$(BIN)/cfn-lint template.yaml provisioning/fleet.yaml provisioning/dashboard.yaml

# Their tools want other versions of the same packages: each has an environment of its own.
test-deploy: .venv-sam/.installed .venv-checkov/.installed
	SAM_CLI_TELEMETRY=0 .venv-sam/bin/sam validate --lint --region us-east-1
	rm -rf .aws-sam
	PYTHON=$(CURDIR)/.venv-sam/bin/python SAM_CLI_TELEMETRY=0 .venv-sam/bin/sam build
	.venv-sam/bin/python package.py lambda --dependencies --architecture arm64 --folder .aws-sam/arm64
	.venv-sam/bin/python .ci/check_sam_build.py
	.venv-checkov/bin/checkov --skip-download --compact --quiet --framework cloudformation dockerfile \
	    --file template.yaml provisioning/fleet.yaml provisioning/dashboard.yaml provisioning/Dockerfile
	.venv-checkov/bin/hadolint provisioning/Dockerfile

test-tracking: $(VENV)/.for-tests .venv-tracking/.installed
	$(BIN)/python -m pytest --numprocesses=0 tests/integration/console/test_tracking_servers.py $(OPTIONS)

.venv-%/.installed: .ci/constraints-%.txt
	@echo "installing $* into .venv-$*"
	@$(PYTHON) -m venv --clear .venv-$* || { echo $(NO_VENV) >&2; exit 1; }
	@.venv-$*/bin/python -m pip --disable-pip-version-check --quiet install --requirement $< \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	    || { echo $(NO_PACKAGES) >&2; exit 1; }
	@touch $@

# The peers are optional: a benchmark without them says so.
# Both environments are of one Python: that of the tests comes first, Ray is what it lacks.
test-ray: $(VENV)/.for-tests .venv-ray/.installed
	PYTHONPATH=$(CURDIR):$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	    .venv-ray/bin/python -m pytest --numprocesses=0 tests/contracts/test_cell_executor.py \
	    tests/integration/simulation/test_grid_on_ray.py $(OPTIONS)

bench: $(VENV)/.for-tests
	@$(MAKE) --no-print-directory .venv-flower/.installed || echo "the benchmarks run without Flower"
	@$(MAKE) --no-print-directory .venv-flare/.installed || echo "the benchmarks run without FLARE"
	$(BIN)/python -m benchmarks $(OPTIONS)

prose: $(VENV)/.for-tests
	$(BIN)/python .ci/prose.py

chaos: $(VENV)/.for-tests
	$(BIN)/python -m tests.chaos $(if $(SCHEDULES),--schedules $(SCHEDULES),--rounds $(ROUNDS)) --seed $(SEED) $(OPTIONS)

requirements: $(VENV)/.for-tests
	$(BIN)/python .ci/pin_requirements.py

clean:
	rm -rf $(VENV) .venv-sam .venv-checkov .venv-tracking .venv-ray .venv-flower .venv-flare .aws-sam build greengrass-build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "fedgrass needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip --version >/dev/null \
	    || { rm -rf $(VENV); echo $(NO_VENV) >&2; exit 1; }

$(VENV)/.for-demo: constraints.txt pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs into $(VENV) (PyTorch is the largest part; a minute or two)"
	@$(INSTALL) --editable '.[device,cloud,local]' || { echo $(NO_PACKAGES) >&2; exit 1; }
	@touch $@

$(VENV)/.for-tests: $(VENV)/.for-demo
	@echo "installing what the tests need into $(VENV)"
	@$(INSTALL) --editable '.[device,cloud,dashboard,local,dev,flower,onnx,trees,mlflow,tensorboard,otel,traces]' || { echo $(NO_PACKAGES) >&2; exit 1; }
# Of this package the tests read its axe.min.js alone: Playwright, which it requires, is not needed.
	@$(INSTALL) --no-deps axe-playwright-python || { echo $(NO_PACKAGES) >&2; exit 1; }
	@$(BROWSER)
	@touch $@
