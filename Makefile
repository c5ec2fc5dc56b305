# The two commands of the README (`make demo`, `make test`) and what they are made of. Needs Python 3.11 or newer, its venv module and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint campaign pictures clean
.DELETE_ON_ERROR:

demo: .venv/demo.installed ## four hospitals, one model, on this machine
	@$(BIN)/aimer2 demo

test: lint tests/integration/node_modules ## everything that CI runs
	$(BIN)/pytest -n 2 --dist worksteal

lint: .venv/test.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

campaign: .venv/test.installed ## long searches for faults, with fresh random cases
	$(BIN)/pytest -n 2 -m campaign --hypothesis-profile=campaign -o timeout=3600

pictures: .venv/test.installed tests/integration/node_modules ## the documentation's pictures of pages, taken anew
	AIMER2_PICTURES=docs/images $(BIN)/pytest --basetemp=/tmp/aimer2 tests/end_to_end/test_story.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is older than what it was made from when the dependencies change; then pip looks again.
.venv/demo.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing AIMER2 and what the demo needs into .venv (PyTorch is large: the first time takes some minutes) ..."
	@$(PIP) -e '.[demo]'
	@touch $@

.venv/test.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing AIMER2 and what its tests need into .venv (PyTorch and TensorFlow are large: the first time takes some minutes) ..."
	@$(PIP) -e '.[test,torch,keras,sklearn,parquet,postgresql,demo]'
	@touch $@

# Servers from npm that tests start; without npm those tests are skipped, on CI they fail.
tests/integration/node_modules: tests/integration/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: the tests that need servers of it are left out."; exit 0; }; \
		npm ci --prefix tests/integration --no-audit --no-fund --silent && touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "AIMER2 needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv --clear .venv
