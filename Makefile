# Everything runs in .venv, which the first target makes. PIP_ARGS reaches pip, for example
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# spares a Linux machine the several GB of torch's CUDA build.
PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
UPLINK_KILLS ?= 60
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow lint format bench bench-quick demo-rows bench-policy bench-price
.PHONY: review-pictures bench-review interop tflite-tools bench-files zoo bench-litert bench-run soak soak-uplink bench-uplink
.PHONY: embed-tools embed-test bench-embed readme-picture docs clean

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
	@mkdir -p demo/digits
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
	DRIPGATE_UPLINK_KILLS=$(UPLINK_KILLS) OMP_NUM_THREADS=1 $(BIN)/pytest tests/uplink -k whoever_is_killed

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

bench: $(READY) ## the benchmark's table, four data sets: hours; goes on where it stopped: docs/results
	OMP_NUM_THREADS=1 $(BIN)/dripgate bench mnist speechcommands cifar10 plantvillage \
	  --out docs/results

bench-quick: $(READY) ## a part of it, two data sets, one seed: out/bench-quick
	OMP_NUM_THREADS=1 $(BIN)/dripgate bench mnist speechcommands --seeds 1 \
	  --rules full,random,class_random,margin,dripgate --keep 0.61,0.3,0.1 --out out/bench-quick

bench-policy: $(READY) ## what the policy holds and costs: docs/results/policy.json (needs mnist)
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_policy.py

# Peers live in an environment of their own that sees torch in .venv; grad-cam is installed without
# what it asks for, since torchvision has no build for this torch. They cannot touch .venv.
PEERS := .venv-peers
$(PEERS)/.ready: $(READY)
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
	  > $$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dripgate.pth
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
	  captum==0.9.0 torchcam==0.5.0 ttach==0.0.3 tqdm matplotlib opencv-python-headless
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps grad-cam==1.5.7
	@touch $@

bench-price: $(PEERS)/.ready ## what a decision costs, peers beside it: docs/results/price.json
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(PEERS)/bin/python tools/bench_price.py

review-pictures: $(READY) ## docs/review.png and two more (needs Debian's chromium)
	OMP_NUM_THREADS=1 $(BIN)/python tools/review_pictures.py

readme-picture: $(READY) ## docs/decided.png: kept, dropped and set aside, with their heatmaps
	OMP_NUM_THREADS=1 $(BIN)/python tools/readme_picture.py

# The site's tools live in an environment of their own; nothing is fetched when it builds or is read.
DOCS := .venv-docs
$(DOCS)/.ready: pyproject.toml constraints.txt constraints-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	  -c constraints.txt -c constraints-docs.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)/.ready ## the documentation as a site, every link checked: build/site/index.html
	$(DOCS)/bin/zensical build --clean --strict
	@! grep -rnE --include='*.html' '<(script|link|img|iframe)[^>]* (src|href)="https?://' build/site || \
	  { echo "the site would fetch these when it is read; serve them from docs/assets"; exit 1; }

bench-review: $(READY) ## from a key press to a durable label, at 10,000 and a million samples: docs/results/review.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_review.py

# Label Studio and Hugging Face datasets: 1.4 GB, with versions of their own.
INTEROP := .venv-interop
$(INTEROP)/.ready: Makefile
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) label-studio==1.23.2 datasets
	@touch $@

interop: $(READY) $(INTEROP)/.ready ## labels through a real Label Studio and back; datasets loads ours
	DRIPGATE_INTEROP=$(CURDIR)/$(INTEROP) OMP_NUM_THREADS=1 $(BIN)/pytest tests/export/test_interop.py

# LiteRT's converter brings jax and torchao, 2 GB in all.
LITERT := .venv-litert
$(LITERT)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
	  '.[train]' scipy litert-torch==0.10.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0
	@touch $@

# Every public family of classifiers: the frameworks that define them, and torch's own exporters.
ZOO := .venv-zoo
ZOO_ONLY ?= *
$(ZOO)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	  torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0 '.[train]'
	@touch $@

zoo: $(ZOO)/.ready ## classifiers of every family made into gates (DRIPGATE_MODELS, hours): docs/results/zoo.md
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(ZOO)/bin/python tools/zoo.py --only '$(ZOO_ONLY)'

bench-litert: $(LITERT)/.ready ## LiteRT and int8 beside onnxruntime: docs/results/price.json
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(LITERT)/bin/python tools/bench_litert.py

# tf2onnx and TensorFlow are 2.2 GB, and no dependency: only .tflite files need them.
TFLITE = $$($(BIN)/python -c 'from dripgate.fit.tflite import tools; print(tools())')
tflite-tools: $(READY) ## what converts .tflite files, in an environment of its own
	$(PYTHON) -m venv $(TFLITE)
	$(TFLITE)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) tf2onnx==1.17.0 tensorflow==2.21.0

bench-files: $(READY) ## classifiers as files (DRIPGATE_MODELS, DRIPGATE_DATA): docs/results/files.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_files.py

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
	rm -rf .venv $(DOCS) $(PEERS) $(LITERT) $(INTEROP) $(ZOO) demo
