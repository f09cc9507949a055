# make demo    the whole journey on real data; needs Python 3.11+ and nothing else
# make test    all tests
# make check   what to run while writing: format, types, import rules, the quick tests
# make lint    the first three of them alone
# make docs    the site, into site/
# make bench   measurements
# make clean   back to a fresh checkout
#
# Each target can be repeated. What is installed is remembered by stamps in .venv, which age with pyproject.toml.

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
UV := $(shell command -v uv 2>/dev/null)
# The first Python that is new enough; versions that are named but not installed do not count.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
ARGS ?=

# Without compiled bytecode every process that a test starts would compile the libraries again.
unexport PYTHONDONTWRITEBYTECODE
# The pages are built without the network, and the warning is about a release that pyproject.toml does not allow.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test check lint docs bench clean format generate

demo: $(VENV)/installed
	@$(BIN)/boucle demo $(ARGS)

test: $(VENV)/installed-dev
	@$(PY) -m compileall -q src
	@$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

check: lint
	@$(PY) -m compileall -q src
	@$(PY) -m pytest -n 2 --dist worksteal -q -m "not slow" $(ARGS)

lint: $(VENV)/installed-dev
	@$(BIN)/ruff format --check --quiet . || { echo "to do: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --quiet 2>/dev/null || $(BIN)/lint-imports
	@$(PY) docs/generate.py --check

format: $(VENV)/installed-dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

generate: $(VENV)/installed-dev
	@$(PY) docs/generate.py

docs: $(VENV)/installed-dev
	@$(PY) docs/generate.py --check
	@$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

bench: $(VENV)/installed-dev
	@for file in bench/*.py; do echo "== $$file"; $(PY) $$file $(ARGS) || exit 1; done

clean:
	@for folder in demo/*/; do \
	  if [ -f "$$folder/boucle.toml" ] && [ -x $(BIN)/boucle ]; then \
	    $(BIN)/boucle stop "$$(basename "$$folder")" -C "$$folder" >/dev/null 2>&1 || true; fi; done
	@rm -rf demo site dist build .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(VENV)
	@find src tests docs bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(PY):
	@if [ -z "$(PYTHON)$(UV)" ]; then \
	  echo "Boucle needs Python 3.11 or newer, and none was found (python3 is: $$(python3 --version 2>&1))."; \
	  echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; fi
	@if [ -n "$(UV)" ]; then uv venv --quiet --allow-existing --python "$(or $(PYTHON),>=3.11)" $(VENV); \
	  else $(PYTHON) -m venv $(VENV); fi

$(VENV)/installed: pyproject.toml | $(PY)
	@$(call install,-e .)
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(PY)
	@$(call install,-e . --group dev)
	@touch $(VENV)/installed $@

# pip can install dependency groups from 25.1 on.
define install
if [ -n "$(UV)" ]; then uv pip install --quiet --compile-bytecode --python $(PY) $(1); else \
  { $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; } && \
  { $(PY) -m pip --version | grep -qE '^pip (2[6-9]|[3-9][0-9]|25\.[1-9])' || \
    $(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'; } && \
  $(PY) -m pip install --quiet --disable-pip-version-check $(1); fi
endef
