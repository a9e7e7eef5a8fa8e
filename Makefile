# Needs Python 3.11 or newer, git and make; everything else is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
ARGS ?=

.PHONY: help install train test test-slow check format docs clean

help:
	@echo "make train      install into .venv and run the demonstration federation"
	@echo "make test       fast tests and those that start a real Ray"
	@echo "make check      format, lint, types, import contracts, make test"
	@echo "make test-slow  the tests that train on real images"
	@echo "also: install, format, docs, clean"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: about 7 GB, a few minutes the first time ..."
	@$(PIP) install --root-user-action=ignore --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "Installed. The command is .venv/bin/primia-ray"

# The built-in demonstration federation; options through ARGS, for example: make train ARGS="--name first"
train: install
	@$(BIN)/primia-ray train $(ARGS)

# Everything but the tests marked slow, in two processes; real Ray is started in tests/integration.
test: install
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(ARGS)

test-slow: install
	@$(BIN)/python -m pytest -m slow $(ARGS)

check: install
	@echo "format";  $(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@echo "lint";    $(BIN)/ruff check --quiet .
	@echo "types";   $(BIN)/mypy --no-error-summary
	@echo "imports"; $(BIN)/lint-imports --no-logo
	@echo "tests"
	@$(MAKE) --no-print-directory test

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: install
	@$(BIN)/primia-ray config reference --output docs/configuration.md
	@$(BIN)/python -c 'from primia.federation.border import border_markdown; print(border_markdown(), end="")' > docs/border.md

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find primia tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
