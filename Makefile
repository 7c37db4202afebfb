# PYTHON is the interpreter that the environment is made with, VENV where it is made. Several
# environments can live beside each other: make unit VENV=.venv-3.12 PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PROTOS := $(patsubst proto/%,%,$(wildcard proto/spear_wasm/api/*.proto))

.DELETE_ON_ERROR:
.PHONY: help demo test unit lint style types imports proto proto-check bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: $(INSTALLED)  ## start a server, upload a module and call it
	$(BIN)/python -m spear_wasm.cli.demo

test: lint proto-check unit  ## everything that has to hold before a commit

unit: $(INSTALLED)  ## the tests alone; PYTEST_ARGS are handed on
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: style types imports  ## style and format, types, import contracts

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports --no-logo

# $(call generate,DIR) writes spear_wasm/api below DIR.
define generate
$(BIN)/python -m grpc_tools.protoc -I proto \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --mypy_out=quiet:$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) \
	$(PROTOS)
endef

proto: $(INSTALLED)  ## generate spear_wasm/api from proto/
	$(call generate,.)

proto-check: $(INSTALLED)  ## compare spear_wasm/api with what proto/ generates
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(call generate,"$$fresh") && \
	{ diff -rq -x __init__.py -x __pycache__ "$$fresh/spear_wasm/api" spear_wasm/api || \
	{ echo "spear_wasm/api is not what proto/ generates: run 'make proto'" >&2; exit 1; }; }

bench: $(INSTALLED)  ## measure; BENCH_ARGS are handed on
	$(BIN)/python -m bench $(BENCH_ARGS)

clean:  ## remove the environments, caches and builds
	rm -rf $(VENV) .venv-* build dist *.egg-info
	rm -rf .benchmarks .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	echo "CPython 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	echo "Name another one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
