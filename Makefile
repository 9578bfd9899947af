.DEFAULT_GOAL := help
PYTHON ?= python3
DATA ?= data
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-benchmark

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Create .venv and install the exact versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup  ## Train LeNet-5 on scikit-learn's handwritten digits (under a minute after the packages are installed)
	$(BIN)/python train.py experiment=quickstart
	@echo
	@echo "See it:      source $(VENV)/bin/activate && tensorboard --logdir outputs"
	@echo "Main job:    python train.py model=mobilenet_v2 freeze=features"

test: setup  ## Run the test suite, without the slow tests
	$(BIN)/python -m pytest
	@echo
	@echo "Next:        make quickstart"

test-all: setup  ## Run the test suite, with the slow tests
	$(BIN)/python -m pytest -m ''

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: setup  ## Give every parser 10,000 random inputs (an hour)
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/fuzz

audit:  ## Look for known vulnerabilities of the exact versions in constraints.txt
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

board: setup  ## Start TensorBoard on outputs/, for this machine only
	$(BIN)/tensorboard --logdir outputs --host 127.0.0.1 --samples_per_plugin scalars=100000,images=500,histograms=200

gallery: setup  ## Regenerate docs/gallery from networks trained here (under ten minutes; DATA=FOLDER for data elsewhere)
	$(BIN)/python docs/gallery.py --data $(DATA)

benchmark: $(PEERS)/.installed  ## Measure speed against other loaders, loops and the course's script (under an hour; DATA=FOLDER for data elsewhere)
	$(PEERS)/bin/python benchmarks/input_pipeline.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/training_step.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/small_images.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/engines.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/transfer_sweep.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/scaling.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/startup.py --data $(DATA)

gpu: setup  ## Measure what a GPU changes (at most eight minutes on one GPU; DATA=FOLDER for data elsewhere)
	$(BIN)/python benchmarks/gpu.py --data $(DATA)

$(PEERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fast,onnxruntime,openvino,timm]'
	@touch $@

clean:  ## Remove .venv, .venv-benchmark and tool caches (outputs/ and data/ stay)
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup quickstart test test-all lint fuzz audit board gallery benchmark gpu clean
