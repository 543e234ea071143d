# The front door: `make demo` from nothing to a table of recalls, `make test` for the tests.
PYTHON ?= python3
RUN ?= runs/demo
BIN := .venv/bin

.PHONY: demo test lint docs lab clean

demo: .venv/ready
	$(BIN)/groundnlq notebooks --run $(RUN)

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in site/, with the notebooks that were executed in RUN.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 GROUNDNLQ_RUN=$(RUN) $(BIN)/python -m mkdocs build --strict

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

# Made again whenever the requirements change.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@

# What was made on this machine, but for .venv and data.
clean:
	rm -rf runs site .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
