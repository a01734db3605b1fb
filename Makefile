# The commands of this repository. `make demo` and `make test` set up what they need in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=
# ONNX Runtime reports to its vendor unless told not to (docs/decisions/0006).
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help demo test check format proto bench bench-quick clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## serve handwritten digits to concurrent clients, print accuracy and speed
	$(BIN)/python examples/digits/demo.py

test: $(VENV)/.dev $(VENV)/.kserve node  ## the whole suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev  ## format, lint, types, contracts, generated protobuf
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m pytest -q tests/contract

format: $(VENV)/.dev  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.dev  ## generate the protobuf stubs again
	$(BIN)/python proto/generate.py --write

bench: $(VENV)/.dev  ## all benchmarks at full length
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/.dev  ## all benchmarks, short
	$(BIN)/python bench/run.py --quick

clean:  ## remove what the targets above made
	rm -rf $(VENV) .cache tests/e2e/node/node_modules

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[cpu,demo,dev]'
	@touch $@ $(VENV)/.demo

# KServe's client brings some thirty packages of its own: it gets an environment of its own.
$(VENV)/.kserve: constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/kserve
	$(VENV)/kserve/bin/pip install --quiet --disable-pip-version-check --constraint constraints-kserve.txt kserve
	@touch $@

.PHONY: node
node:
	@if command -v npm >/dev/null; then cd tests/e2e/node && { [ -d node_modules ] || npm ci --silent --no-audit --no-fund; }; fi
