# make repro: set up, build everything, show the results.   make test: set up, run all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The stages' `python` is the one of the virtual environment, also where it is not activated.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help repro test lint wiring

help:
	@head -1 Makefile

repro: $(INSTALLED)
	$(BIN)/verdict repro

# The code deps of dvc.yaml, from the imports.
wiring: $(INSTALLED)
	$(BIN)/python -m stages.tools.wiring

# Two processes share the cores: threads that spin while they wait would take them from each other.
test: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(INSTALLED)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# Twice quiet: errors only. Bytecode is made by all cores, where pip would use one, and at once: where
# PYTHONDONTWRITEBYTECODE is set, as in many containers, each start would compile all it imports, 1 to 3 s.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, got " + sys.version + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the packages of constraints.txt: 1 to 2 GB, some minutes"
	$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/py312_' $(VENV)/lib
	@touch $@
