# Each target sets up its own .venv; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint check accept clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'torch>=2.9,<2.14'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)  ## distil the embedded teacher into the embedded student
	$(BIN)/distill run configs/quickstart.yaml

test: $(STAMP)  ## the test suite, with coverage; a file is run by one process, each process on one thread
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --cov --cov-report=term:skip-covered

lint: $(STAMP)  ## style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: quickstart test lint  ## what CI runs

accept: $(STAMP)  ## the long acceptance: kills, arms, benchmarks; results in docs/acceptance.md
	$(BIN)/python -m pytest -m slow
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -m hypothesis
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/quickstart.py
	$(BIN)/python -m benchmarks.engines --problems 512 --threads 1
	$(BIN)/python -m benchmarks.served
	$(BIN)/python -m benchmarks.served --resume
	$(BIN)/python -m benchmarks.served --memory
	$(BIN)/distill run configs/kl-ablation.yaml

clean:
	rm -rf $(VENV) runs
