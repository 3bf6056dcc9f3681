# `make demo` and `make test` set themselves up: they need Python 3.11+, make and a package index.
# The first that is new enough; `make PYTHON=...` names another.
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done), \
	$(error Python 3.11 or newer is needed. Install it, or name it: make PYTHON=/path/to/python3))
BIN := .venv/bin

.PHONY: help setup setup-dev demo test unit system lint typecheck format bench lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## Make .venv with what Geumgo needs to run
	@$(PYTHON) scripts/bootstrap.py all

setup-dev: ## Make .venv with what its tests need, too
	@$(PYTHON) scripts/bootstrap.py dev

demo: setup ## Run the main job on this machine (KEEP=1, SANDBOX=landlock)
	@$(BIN)/geumgo demo --output build/demo $(if $(SANDBOX),--sandbox $(SANDBOX)) $(if $(KEEP),--keep)

test: lint typecheck unit system ## Everything that a change must pass

unit: setup-dev ## Ring 1: no root, no network, seconds
	$(BIN)/python -m pytest -n 2 -m "not system"

system: setup-dev ## Ring 2: real processes on this machine
	$(BIN)/python -m pytest -m system --timeout 300

lint: setup-dev ## Style and the import contract
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: setup-dev ## Strict typing
	$(BIN)/mypy

format: setup-dev ## Put the code into shape
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: setup-dev ## The first-light benchmark, with its plot in build/benchmarks
	$(BIN)/python benchmarks/first_light.py --output build/benchmarks

lock: ## Write the lock files anew
	scripts/lock

clean: ## Remove what the build made
	rm -rf build .venv
