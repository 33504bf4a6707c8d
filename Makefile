# Each target sets itself up: the first one typed makes .venv (about a minute), the others find it.
#   make demo    pre-train the tiny model, evaluate it zero- and one-shot, into runs/demo
#   make test    lint, types and tests; what .ci/run runs
#   make lint    ruff and mypy alone
#   make clean   remove .venv and caches, and leave runs/ alone

.PHONY: demo test lint clean
.DEFAULT_GOAL := test

# The first Python that really runs, is 3.11 or later, and can make a virtual environment.
# Being on PATH is not enough: a pyenv shim stands there for versions that are not selected.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
STAMP := .venv/installed

# The stamp is written last, so an interrupted installation starts over.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later that can make a virtual \
	environment was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into .venv with $(PYTHON); this takes about a minute."
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install -qq -c constraints.txt -e '.[data,beam,notebooks,dev]'
	@touch $@

demo: $(STAMP)
	.venv/bin/alexatm --run_mode=train --gin_file=experiments/demo.gin
	.venv/bin/alexatm --run_mode=eval --gin_file=experiments/demo.gin

lint: $(STAMP)
	.venv/bin/ruff check
	.venv/bin/mypy

# Eight simulated devices, for the tests that compare one device with a mesh; a compiler that takes
# three quarters of the time; two processes, for most of it is compilation, which uses one core.
test: export JAX_PLATFORMS = cpu
test: export XLA_FLAGS = --xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false
test: export TF_CPP_MIN_LOG_LEVEL = 3
test: lint
	.venv/bin/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
