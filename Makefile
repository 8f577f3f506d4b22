# Everything runs in .venv, which the first target makes. PIP_ARGS reaches pip, for example
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# spares a Linux machine the several GB of torch's CUDA build.
PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow lint format demo-rows score-study bench-policy embed-tools \
        embed-test bench-embed clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

env: $(READY) ## the environment, in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dripgate needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 …"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## the whole loop on scikit-learn's digits, about a minute; then see demo/digits
	$(BIN)/dripgate demo --json demo/digits/demo.json

test: lint ## everything CI checks: lint, types, import contract, tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

test-slow: $(READY) ## the long versions: 500 kills of the store
	DRIPGATE_KILLS=500 OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow or not slow"

lint: $(READY) ## ruff, mypy strict, import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## rewrite in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

demo-rows: $(READY) ## the demo on the four real data sets, three seeds: docs/results/demo.md
	$(BIN)/python tools/demo_rows.py

score-study: $(READY) ## scores and proxies compared without retraining: docs/results/score_study.json
	$(BIN)/python tools/score_study.py

bench-policy: $(READY) ## what the policy holds and costs: docs/results/policy.json (needs mnist)
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_policy.py

embed-tools: ## the Arm compiler and QEMU, from Debian's packages, where they are not installed
	@command -v arm-none-eabi-gcc >/dev/null && command -v qemu-system-arm >/dev/null || \
	  { sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; $$sudo apt-get update -qq && \
	    $$sudo apt-get install -qq -y --no-install-recommends gcc-arm-none-eabi \
	      libnewlib-arm-none-eabi qemu-system-arm cmake; }

embed-test: $(READY) embed-tools ## the gate on four emulated Cortex-M cores; DRIPGATE_DATA for real data
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/embed tests/policy/test_policy_in_c.py
	WORK=build/embed-test STEPS=60 OMP_NUM_THREADS=1 $(BIN)/python tools/bench_embed.py check

bench-embed: $(READY) embed-tools ## what a decision takes on a Cortex-M: docs/results/embed.md
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_embed.py

clean: ## remove the environment and what the demo wrote
	rm -rf .venv demo
