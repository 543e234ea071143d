# The front door: `make demo` from nothing to a table of recalls, `make test` before every commit.
PYTHON ?= python3
RUN ?= runs/demo
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo quick test test-all test-soak lint docs lab clean

demo: hello .venv/ready
	$(BIN)/groundnlq notebooks --run $(RUN)

# The same notebooks on a tiny world.
quick: .venv/ready
	$(BIN)/groundnlq notebooks --quick

.PHONY: hello
hello:
	@echo "make demo: Python packages (.venv, 2.3 GB, once, 2 minutes), then nine notebooks on two cores, 20 minutes: films of"
	@echo "a sample world (data/sample, 0.5 GB), training of four networks, evaluation ($(RUN), 0.2 GB). make quick: the same on"
	@echo "a tiny world, in minutes. It can be stopped: called again, it goes on with the films and the trainings."

# What a person runs before every commit: every room, one notebook, processes that are killed. It names tests
# that took ten seconds or more: unless the machine was busy, they are to be marked as slow.
test: .venv/ready
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not soak" --durations 9 --durations-min 10

# Every test, and more random examples of each property; what .ci/run calls.
test-all: .venv/ready
	FUZZ_EXAMPLES=100 $(BIN)/python -m pytest -n $(WORKERS)

# An hour of the endless loop, and a long run with twenty kills.
test-soak: .venv/ready
	SOAK_SECONDS=3600 GROUNDNLQ_SOAK_KILLS=20 $(BIN)/python -m pytest -m soak -s

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in site/, with the notebooks that were executed in RUN.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 GROUNDNLQ_RUN=$(RUN) $(BIN)/python -m mkdocs build --strict

# JupyterLab in this folder, on copies of the notebooks in my_notebooks/.
lab: .venv/ready
	$(BIN)/groundnlq notebooks --lab

# Made again whenever the requirements change.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	touch $@

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@

# What was made on this machine, but for .venv and data.
clean:
	rm -rf runs site .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
