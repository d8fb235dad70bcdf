# Everything lives in .venv (and .venv-min, .venv-audit) in this folder; nothing outside it is touched.
PYTHON ?= python3
BIN := .venv/bin
# `demo` needs the program alone; everything else needs the tools, too.
PROGRAM := .venv/.program-installed
STAMP := .venv/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MIN := .venv-min/bin
AUDIT := .venv-audit/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-min lint audit docs wheel bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the project with its development tools

$(PROGRAM): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e .
	touch $@

$(STAMP): $(PROGRAM)
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

demo: $(PROGRAM) ## compare plain fine-tuning with GTA on the built-in dataset (minutes)
	$(BIN)/gta demo --out runs/demo

# Two processes of one thread each: they share no state, and the tests are too small for more threads.
test: install ## run the test suite without the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

test-all: install ## run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-min: install ## run the test suite on the lowest versions that pyproject.toml declares
	test -x $(MIN)/python || $(PYTHON) -m venv .venv-min
	$(BIN)/uv pip install --quiet --python $(MIN)/python --resolution lowest-direct -e '.[test]'
	$(MIN)/python -m pytest -m "not slow"

lint: install ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

audit: ## look up known vulnerabilities of the versions in constraints.txt
	test -x $(AUDIT)/pip-audit || { $(PYTHON) -m venv .venv-audit && $(AUDIT)/python -m pip install --quiet pip-audit; }
	$(AUDIT)/pip-audit --strict --disable-pip --no-deps -r constraints.txt || \
		{ echo "audit failed: see above; a package that is \"not found\" means that no advisories can be reached here" >&2; exit 1; }

docs: install ## build the documentation site in build/site; dead links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheel: install ## build the wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

bench: install ## measure speed against other code; ARGS="--quick", "--compare OLD.json"
	$(BIN)/python benchmarks/bench.py $(ARGS)
