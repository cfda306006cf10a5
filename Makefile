# Two commands: `make run` and `make test`. Both install once, into .venv, from constraints.txt.

VENV        ?= .venv
RECIPE      ?= experiments/recipes/quickstart.yaml
RUN_ARGS    ?=
PYTEST_ARGS ?=
# Test processes; the tests of one file stay in one process. More than cores, and whole runs reach their time limits.
PROCESSES   ?= 2
# An extra package index, for instance https://download.pytorch.org/whl/cpu for torch's CPU build.
EXTRA_INDEX ?=
# What installs into VENV. Compiling all of it takes minutes; Python compiles what is imported, once.
INSTALL     ?= $(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-compile
# The first interpreter that runs, is new enough and can make environments; constraints.txt is tested with 3.11.
PYTHON      ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Python keeps what it has compiled: otherwise every process would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test lint format clean

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo
	@echo "variables: PYTHON, EXTRA_INDEX, RECIPE, RUN_ARGS, PYTEST_ARGS, PROCESSES, VENV"

install: $(INSTALLED) ## create .venv and install into it, once

# The stamp is written last: an installation that broke off is begun again by the next call.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "make: no Python >= 3.11 with venv and ensurepip was found; name one: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX)) -c constraints.txt -e ".[all]"
	$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

run: $(INSTALLED) ## run the recipe from training to the exported model
	$(BIN)/nas run $(RECIPE) $(RUN_ARGS)

lint: $(INSTALLED) ## check style, types and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## check everything and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

format: $(INSTALLED) ## bring the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and the caches of the tools (runs stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.git/*' -not -path './runs/*' -prune -exec rm -rf {} +
