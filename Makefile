# What this repository can do. `make` alone lists it; `make run` and `make test` need nothing but Python 3.11.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# The first Python on PATH that is new enough, tried by running it; `make PYTHON=... setup` overrides.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
# Programs that the build and the examples start are found here first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Dozens of processes start here. With what Python has compiled they start in a third of the time, so
# it may keep it, also where the environment (that of many containers) says otherwise.
export PYTHONDONTWRITEBYTECODE :=

PROTOS := $(wildcard protos/tenure/v1/*.proto protos/buf/validate/*.proto)
EXAMPLE := examples/log-report/workflow.yaml
# Which commit the contract must stay compatible with: what has landed on main.
AGAINST ?= $(shell git rev-parse --verify --quiet --abbrev-ref origin/main || echo main)

.PHONY: help setup protos run examples test lint bench bench-peers chaos soak reproduce simulate model fuzz pressure dist clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/stubs  ## Build .venv with everything in it (the others call it)
	@:

$(VENV)/installed: pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    python="$(PYTHON)"; \
	    if [ -z "$$python" ]; then \
	        echo "error: no Python 3.11 or newer on PATH; name one: make setup PYTHON=/path/to/python" >&2; exit 1; fi; \
	    echo "setup: building $(VENV) with $$python; about half a minute with a warm package cache"; \
	    "$$python" -m venv --clear $(VENV) || { \
	        echo "error: $$python cannot make a virtual environment (Debian: install python3-venv)" >&2; exit 1; }; \
	fi
# The newer pip resolves the development extra in seconds where that of Python 3.11.7 takes minutes.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
# First what the build needs, then no isolated build: it would install the same things again.
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt \
	    hatchling hatch-protobuf grpcio-tools mypy-protobuf
	@rm -f protos/tenure/v1/*_pb2* protos/buf/validate/*_pb2*
	@$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --constraint constraints.txt \
	    --editable '.[dev]'
	@touch $(VENV)/stubs $@

$(VENV)/stubs: $(VENV)/installed $(PROTOS)
	@$(MAKE) protos

protos: $(VENV)/installed  ## Write the Python stubs of the contract anew
	@rm -f protos/tenure/v1/*_pb2* protos/buf/validate/*_pb2*
	@hatchling build --target wheel --hooks-only >/dev/null
	@touch $(VENV)/stubs

run: setup  ## Run a real workflow from beginning to end
	@folder=$$(mktemp -d "$${TMPDIR:-/tmp}/tenure-run-XXXXXX"); \
	tenure dev run $(EXAMPLE) --data "$$folder/tenure" --input "{\"folder\": \"$$folder\"}" \
	    --bundle "$$folder/run.bundle.json" && \
	tenure evidence verify "$$folder/run.bundle.json" >/dev/null && \
	printf '%s\n' '' \
	    "The report it wrote:  $$folder/report.html" \
	    "Its proof, verified:  tenure evidence verify $$folder/run.bundle.json" '' \
	    'Next:' \
	    '  . $(BIN)/activate                                  puts tenure, tenure-agent, tenure-server on PATH' \
	    '  tenure dev run examples/mandelbrot/workflow.yaml      another example, with checkpoints' \
	    '  tenure dev                                            coordinator and agent, until Ctrl-C' \
	    '  README.md                                             a first workflow of your own in five minutes'

examples: setup  ## Run every example
	@for file in examples/log-report examples/mandelbrot; do \
	    echo "== $$file"; tenure dev run $$file/workflow.yaml; done
	@echo "== examples/saga (its run fails, and what it did is undone)"; \
	    tenure dev run examples/saga/workflow.yaml || test $$? -eq 1
	@python examples/play.py

# Three files at a time, also on two cores: a good part of the time is waiting, for processes to start and leases to
# expire. A file shares what it starts; which begin first, the longest, tests/conftest.py says.
test: setup  ## Run all tests; say what was skipped and why
	@pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: setup  ## Check style, types, import contracts and the contract's compatibility
	ruff check
	ruff format --check
	mypy
	lint-imports
	buf lint --path protos/tenure
	@if git cat-file -e "$(AGAINST):buf.yaml" 2>/dev/null; then \
	    echo "buf breaking --against $(AGAINST)"; \
	    buf breaking --path protos/tenure --against ".git#ref=$$(git rev-parse $(AGAINST))"; \
	else echo "buf breaking: skipped, there is no earlier contract at $(AGAINST)"; fi

bench: setup  ## Measure speed after verifying results; figures go to benchmarks/results/latest.json
	@python -m benchmarks $(BENCH_ARGS)

# SEED=... repeats a campaign that found something; without it there is a new one each time.
CHAOS_ARGS = $(if $(SEED),--seed $(SEED)) $(if $(STORE),--store $(STORE)) $(if $(KILLS),--kills $(KILLS))

chaos: setup  ## Hurt an installation for SECONDS (60) by SEED on STORE (sqlite, postgres)
	@python -m tests.chaos --seconds $(or $(SECONDS),60) $(CHAOS_ARGS)

soak: setup  ## Kill processes KILLS (10,000) times, for at most SECONDS (86,400)
	@python -m tests.chaos --soak --seconds $(or $(SECONDS),86400) $(CHAOS_ARGS)

reproduce: setup  ## Take the mend of each known bug back and see its tests fail; BUG names one
	@python -m tests.reproduce $(if $(BUG),$(BUG),--all)

simulate: setup  ## Run the engine in simulated time for STEPS (1,000,000) by SEED
	@python -m tests.simulation --steps $(or $(STEPS),1000000) $(if $(SEED),--seed $(SEED))

model: setup  ## Try random workflows with all features for STEPS (100,000) by SEED against a reference
	@python -m tests.model --steps $(or $(STEPS),100000) $(if $(SEED),--seed $(SEED))

fuzz: setup  ## Say CALLS (20,000) things to every RPC that no client would, on both databases
	@TENURE_FUZZ=$(or $(CALLS),20000) pytest -s --show-capture=no tests/fuzz $(PYTEST_ARGS)

pressure: setup  ## Bursts, idle streams and readers who do not read, in full numbers
	@TENURE_PRESSURE=1 pytest -s --show-capture=no tests/pressure $(PYTEST_ARGS)

PEERS := .venv-peers
$(PEERS)/installed: $(VENV)/installed benchmarks/peers/constraints.txt
	@echo "bench-peers: building $(PEERS)"
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --requirement benchmarks/peers/constraints.txt
	@touch $@

bench-peers: setup $(PEERS)/installed  ## Measure Tenure beside other orchestrators and queues, in one run
	@python -m benchmarks.peers $(BENCH_ARGS)

dist: setup  ## Build sdist and wheel, install the wheel elsewhere, and try its commands
	@rm -rf dist && hatchling build --target sdist && hatchling build --target wheel
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/python -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt dist/*.whl; \
	cd "$$folder"; unset PYTHONPATH; \
	for program in tenure tenure-agent tenure-server; do "venv/bin/$$program" --help >/dev/null; done; \
	venv/bin/tenure --version

clean:  ## Remove .venv and everything generated
	@rm -rf $(VENV) $(PEERS) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	@rm -f protos/tenure/v1/*_pb2* protos/buf/validate/*_pb2*
	@find server agent tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
