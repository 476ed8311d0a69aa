# What a user types: make demo, make test, make bench, make lint.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
FAST := -m 'not (browser or models or slow or slurm)'

.PHONY: demo test test-fast coverage bench lint clean install install-models install-tests install-dev tools
.DEFAULT_GOAL := help

help:
	@echo "make demo    install into .venv and run the whole journey on simulated slides, into ./demo-out"
	@echo "make test    install what the tests need and run them all"
	@echo "make test-fast   the tests before a commit: without Chromium, Slurm, torch and what takes long"
	@echo "make coverage   the same tests, and which lines of the package they ran, in htmlcov/"
	@echo "make lint    ruff, mypy and the order of imports"
	@echo "make bench   measure; ONLY=engine|gallery|learn|models for one part, FULL=1 for the long ones"
	@echo "make install-models   install into .venv what SAM2, Cellpose and the embedders need"
	@echo "make clean   remove .venv and everything made"

install: $(VENV)/installed
install-models: $(VENV)/installed-models
install-tests: $(VENV)/installed-tests
install-dev: $(VENV)/installed-dev

demo: install
	@$(BIN)/mkhspc demo --out demo-out

test: install-dev tools
	@$(PYTEST)

test-fast: install-tests
	@$(PYTEST) $(FAST)

coverage: install-tests
	@$(PYTEST) $(FAST) --cov --cov-report=term:skip-covered --cov-report=html
	@echo "line by line: htmlcov/index.html"

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: install-dev
	@$(BIN)/python tests/bench $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full)

tools:
	@sh scripts/test-tools.sh

# Marks of what is done lie inside the environment, so that they are gone when it is.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mkhspc needs Python 3.11 or later; give one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 cannot make a virtual environment; Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	@echo "installing mkhspc into $(VENV) ..."
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/installed-tests: $(VENV)/installed pyproject.toml
	@echo "installing what the tests need into $(VENV) ..."
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-models $(VENV)/installed-tests
	@touch $@

# sam2 comes as source, whose build wants torch to be there and, without a compiler for GPUs, this variable.
$(VENV)/installed-models: $(VENV)/installed pyproject.toml tests/constraints.txt
	@echo "installing the models into $(VENV): a gigabyte or more ..."
	@$(BIN)/pip install --quiet --constraint tests/constraints.txt torch torchvision setuptools wheel
	@SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --no-build-isolation sam2
	@$(BIN)/pip install --quiet --constraint tests/constraints.txt --editable '.[models]'
	@touch $@

clean:
	rm -rf $(VENV) demo-out build dist htmlcov .coverage
