# Everything runs in .venv: `make demo` puts little into it, `make test` what it needs beside that, and
# the targets that train or measure everything (make env-all). torch is in the last alone; PIP_ARGS
# reaches pip, and on Linux
#   make env-all PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# spares the several GB of torch's CUDA build.
PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
UPLINK_KILLS ?= 60
BIN := .venv/bin
DEMO := .venv/.demo
TEST := .venv/.test
READY := .venv/.dev

.DEFAULT_GOAL := help
.PHONY: help env env-all demo demo-size demo-classifier test test-pythons test-lowest dist test-slow lint
.PHONY: format bench bench-quick bench-paper bench-precision bench-auto bench-adapt bench-memory bench-day
.PHONY: demo-rows bench-policy bench-price
.PHONY: review-pictures bench-review interop tflite-tools bench-files zoo zoo-models bench-litert bench-run soak soak-uplink bench-uplink
.PHONY: embed-tools embed-test bench-embed sift-cluster bench-sift readme-picture docs clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

env: $(TEST) ## the environment without torch, in .venv

env-all: $(READY) ## the environment with torch and all that tests and benchmarks need

# Each of the pyproject's extras demo, test and dev has what the one before it has.
.venv/.%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "dripgate needs Python 3.10 or newer, $(PYTHON) is older: make PYTHON=python3.11 …"; exit 2; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(DEMO) ## a device's days without torch, half a minute; then open demo/device/report.html
	@mkdir -p demo/device
	OMP_NUM_THREADS=1 $(BIN)/dripgate demo --json demo/device/demo.json

demo-size: ## what make demo installs, in MB, and the seconds it takes, in a fresh environment
	$(PYTHON) tools/demo_size.py

demo-classifier: $(READY) ## train the classifier that ships again: src/dripgate/demo/classifier.onnx
	OMP_NUM_THREADS=1 $(BIN)/python tools/demo_classifier.py

test: lint ## lint, types, import contract, tests; what is skipped is said, and how to have it
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

test-pythons: ## base install, fit and demo under each Python from 3.10 to 3.13 that is found here, or MINORS="13 12"
	$(PYTHON) tools/try_install.py pythons $(MINORS)

test-lowest: ## the same with the lowest version of every dependency that pyproject.toml allows
	$(PYTHON) tools/try_install.py lowest

dist: ## wheel and sdist in dist/, checked, installed in a fresh environment and shown by the demo
	$(PYTHON) tools/dist.py

test-slow: $(READY) ## tests that are too slow for CI
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow or not slow"

soak: $(READY) ## kills, power loss, failing disks, broken files, a million samples: docs/reliability.md
	DRIPGATE_KILLS=500 DRIPGATE_POWER_STATES=20000 DRIPGATE_FAULT_STRIDE=1 DRIPGATE_MUTANTS=50000 \
	  OMP_NUM_THREADS=1 $(BIN)/pytest tests/store/test_store_crash.py tests/store/test_store_faults.py \
	  tests/stream/test_bad_input.py
	test -e demo/digits/gate.onnx || $(BIN)/dripgate demo --data digits
	OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py demo/digits/gate.onnx

bench-run: $(READY) ## run beside bare onnxruntime, and commits: docs/results/reliability.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_run.py

soak-uplink: $(READY) ## 60 kills of broker, receiver and sender in the middle of a backlog
	DRIPGATE_UPLINK_KILLS=$(UPLINK_KILLS) OMP_NUM_THREADS=1 $(BIN)/pytest tests/uplink -k whoever_is_killed

bench-uplink: $(READY) ## bytes on the wire against bytes seen: docs/results/uplink.json (needs mosquitto)
	test -e demo/digits/gate.onnx || $(BIN)/dripgate demo --data digits
	$(BIN)/python tools/bench_uplink.py demo/digits/gate.onnx demo/digits/stream.zip

# Without torch the types of what is written for it cannot be checked.
WITHOUT_TORCH := $(filter-out %/training %/bench %/py.typed %/__pycache__,$(wildcard src/dripgate/*))
lint: $(TEST) ## ruff, mypy strict, import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@if $(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'; \
	then echo $(BIN)/mypy; $(BIN)/mypy; \
	else echo "mypy, but for training and bench, which need torch: make env-all"; \
	  $(BIN)/mypy --follow-imports=silent $(WITHOUT_TORCH); fi
	$(BIN)/lint-imports

format: $(TEST) ## rewrite in the house style
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

# What tells most comes first; steps were found by `dripgate bench steps` (docs/benchmark.md).
bench-paper: $(READY) ## whole data sets at the paper's scale: days of a core; goes on where it stopped: docs/results/paper
	for data in mnist cifar10 plantvillage speechcommands; do OMP_NUM_THREADS=1 $(BIN)/dripgate bench $$data \
	  --preset paper --rules full,random,dripgate,margin --keep 0.3 --out docs/results/paper || exit; done
	for data in mnist cifar10 plantvillage speechcommands; do OMP_NUM_THREADS=1 $(BIN)/dripgate bench $$data \
	  --preset paper --out docs/results/paper || exit; done

bench-precision: $(READY) ## bfloat16 beside float32, five seeds: docs/results/bf16.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_precision.py

bench-auto: $(READY) ## what auto chooses and what that costs, by the committed rows: docs/results/auto.md
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_auto.py

bench-adapt: $(READY) ## what the head learns on the device: docs/results/adapt.md, half an hour of a core
	OMP_NUM_THREADS=1 $(BIN)/dripgate bench adapt mnist speechcommands cifar10 plantvillage \
	  --out docs/results

bench-memory: $(READY) ## which memory lets a head forget least: docs/results/memory.jsonl, ten minutes of a core
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_memory.py

bench-day: $(READY) ## a device's day, budgets in bytes: docs/results/day.md; hours, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/dripgate bench day mnist speechcommands cifar10 plantvillage \
	  --out docs/results

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

# OpenSSF's model-signing asks for pyopenssl and does not say so.
SIGNING := .venv-signing
$(SIGNING)/.ready: Makefile
	$(PYTHON) -m venv $(SIGNING)
	$(SIGNING)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) model-signing==1.1.1 pyopenssl
	@touch $@

interop: $(READY) $(INTEROP)/.ready $(SIGNING)/.ready ## labels through a real Label Studio and back; datasets loads ours
	DRIPGATE_INTEROP=$(CURDIR)/$(INTEROP) OMP_NUM_THREADS=1 $(BIN)/pytest tests/export/test_interop.py
	DRIPGATE_MODEL_SIGNING=$(CURDIR)/$(SIGNING) OMP_NUM_THREADS=1 $(BIN)/pytest tests/release/test_interop.py

# Ray, of the version that Daft asks for, and moto's S3 server: 900 MB.
CLUSTER := .venv-cluster
$(CLUSTER)/.ready: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
	  '.[archive]' 'daft[ray]' 'moto[server]'
	@touch $@

sift-cluster: $(READY) $(CLUSTER)/.ready ## sift on a real Ray cluster of two workers, and from an S3 server
	DRIPGATE_CLUSTER=$(CURDIR)/$(CLUSTER) OMP_NUM_THREADS=1 $(BIN)/pytest tests/archive/test_cluster.py

bench-sift: $(READY) ## a million samples, what sift costs beside others, kills: docs/results/sift.json
	DRIPGATE_CLUSTER=$(CURDIR)/$(CLUSTER) OMP_NUM_THREADS=1 $(BIN)/python tools/bench_sift.py

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

zoo-models: $(READY) $(ZOO)/.ready ## timm:NAME and hf:FOLDER with the real timm and transformers
	DRIPGATE_ZOO=$(CURDIR)/$(ZOO)/bin/python OMP_NUM_THREADS=1 $(BIN)/pytest tests/fit/test_zoo.py

zoo: $(ZOO)/.ready ## classifiers of every family made into gates (DRIPGATE_MODELS, hours): docs/results/zoo.md
	$${DRIPGATE_TFLITE:-$(TFLITE)/bin/python} tools/zoo_keras.py out/keras  # after make tflite-tools
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(ZOO)/bin/python tools/zoo.py --only '$(ZOO_ONLY)'

bench-litert: $(LITERT)/.ready ## LiteRT and int8 beside onnxruntime: docs/results/price.json
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(LITERT)/bin/python tools/bench_litert.py

# tf2onnx and TensorFlow are 2.2 GB, and no dependency: only .tflite files need them.
TFLITE = $$($(BIN)/python -c 'from dripgate.fitting.tflite import tools; print(tools())')
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
	rm -rf .venv $(DOCS) $(PEERS) $(LITERT) $(INTEROP) $(SIGNING) $(CLUSTER) $(ZOO) demo dist build
