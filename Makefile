# Two commands do all the set-up on a fresh machine:
#   make quickstart   train, fine-tune and evaluate on the data set that ships with the program
#   make test         pass the tests
# Variables: PYTHON=python3.12, VENV=/path, WORKERS=4 (test processes),
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu (which build of torch; empty takes what pip finds)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help env env-dev quickstart test test-slow test-slurm test-ci lint format check wheel lock clean

# The first Python that is new enough.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV ?= .venv
WORKERS ?= 2
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
INPUTS := pyproject.toml setup.py constraints.txt
BASE := $(VENV)/.stamp-base
TESTING := $(VENV)/.stamp-test
DEVELOPING := $(VENV)/.stamp-dev
QUICKSTART := runs/quickstart

help: ## show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

# torch comes first and alone: the build that is wanted (CPU, a CUDA version) is chosen by the index it comes from.
$(BASE): $(INPUTS)
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes) …"
	$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(TESTING): $(BASE)
	$(PIP) --constraint constraints.txt --editable '.[test]'
	@touch $@

$(DEVELOPING): $(TESTING)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

env: $(TESTING) ## the environment that the program and its tests need, in .venv

env-dev: $(DEVELOPING) ## the same with linters and build tools

quickstart: $(BASE) ## pretrain, fine-tune and evaluate on the data set that ships with the program
	$(BIN)/foundation train recipes/quickstart.yaml --out $(QUICKSTART) --resume
	$(BIN)/foundation evaluate $(QUICKSTART) gfn2 --split test
	$(BIN)/foundation evaluate $(QUICKSTART) handedness --split test
	@echo "Look at $(abspath $(QUICKSTART))/report.html"

# Byte code is kept, whatever the shell says: many tests start the program anew. Each process begins with tests that lie
# together, which share what takes long to make.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest
PARALLEL := -n $(WORKERS) --dist worksteal

test: $(TESTING) ## all tests but those marked slow, gpu, slurm or ci
	$(PYTEST) $(PARALLEL)

test-slow: $(TESTING) ## the tests marked slow
	$(PYTEST) $(PARALLEL) -m "slow and not gpu and not slurm"

test-slurm: $(TESTING) ## the tests that start a Slurm of two nodes on this host (root, slurm-wlm and munge)
	$(PYTEST) tests/slurm -m "slurm and not slow" -rs

test-ci: $(TESTING) ## what continuous integration runs besides: models compiled for real (a C++ compiler), benchmarks
	$(PYTEST) $(PARALLEL) -m ci

lint: $(DEVELOPING) ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(DEVELOPING) ## put the source into its one format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: lint test ## what has to pass before a change is sent

wheel: $(DEVELOPING) ## dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build --outdir dist

lock: $(DEVELOPING) ## write the installed versions, those that the tests passed with, to constraints.txt
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable \
		| grep -viE '^(foundation|pip|wheel)\b' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove the environment and what builds left; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
