# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint types unit docs notebooks wheel reproduce-quick test-slow test-gpu bench chaos format clean

help:
	@echo "make demo       break a digit classifier that can only be called; writes runs/demo/report.html"
	@echo "make test       lint, types and tests"
	@echo "make docs       the documentation site, build/site/index.html; a warning is an error"
	@echo "make notebooks  execute the notebooks of the site again"
	@echo "make reproduce-quick  all experiments in their quick forms, some minutes; writes runs/quick"
	@echo "make test-slow  the tests that take minutes (ZORACLE_DATA adds those on real data)"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make chaos      2,000 runs through failures of target, disk, process and files; some minutes"
	@echo "make bench      how fast it is: writes runs/bench and prints a table, half an hour on two idle cores"
	@echo "make wheel      a wheel and a source archive in dist"
	@echo "make format     format the code"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/zoracle demo --out runs/demo

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

reproduce-quick: $(READY)
	rm -rf runs/quick
	$(BIN)/zoracle reproduce all --quick --out runs/quick

notebooks: $(READY)
	$(BIN)/python -m scripts.notebooks

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

chaos: $(READY)
	OMP_NUM_THREADS=1 ZORACLE_CHAOS=2000 $(BIN)/python -m pytest tests/laws/test_chaos.py tests/laws/test_chaos_runs.py

bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks all --out runs/bench

wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .cache
