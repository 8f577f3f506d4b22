# Everything runs in .venv, which the first target makes. PIP_ARGS reaches pip, for example
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# spares a Linux machine the several GB of torch's CUDA build.
PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow lint format demo-rows score-study bench-policy
.PHONY: soak soak-uplink bench-run bench-uplink clean

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

test-slow: $(READY) ## tests that are too slow for CI
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow or not slow"

soak: $(READY) ## kills, power loss, failing disks, broken files, a million samples: docs/reliability.md
	DRIPGATE_KILLS=500 DRIPGATE_POWER_STATES=20000 DRIPGATE_FAULT_STRIDE=1 DRIPGATE_MUTANTS=50000 \
	  OMP_NUM_THREADS=1 $(BIN)/pytest tests/store/test_store_crash.py tests/store/test_store_faults.py \
	  tests/stream/test_bad_input.py
	test -e demo/digits/gate.onnx || $(BIN)/dripgate demo
	OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py demo/digits/gate.onnx

bench-run: $(READY) ## run beside bare onnxruntime, and commits: docs/results/reliability.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_run.py

soak-uplink: $(READY) ## 60 kills of broker, receiver and sender in the middle of a backlog
	DRIPGATE_UPLINK_KILLS=60 OMP_NUM_THREADS=1 $(BIN)/pytest tests/uplink -k whoever_is_killed

bench-uplink: demo ## bytes on the wire against bytes seen: docs/results/uplink.json (needs mosquitto)
	$(BIN)/python tools/bench_uplink.py demo/digits/gate.onnx demo/digits/stream.zip

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

clean: ## remove the environment and what the demo wrote
	rm -rf .venv demo
