# Targets explain themselves: make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := -n 2 --dist worksteal # each test process computes in one thread
RUN := outputs/first_run/$(shell date +%Y-%m-%d_%H-%M-%S)
SWEEP := outputs/sweep/$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: help setup run sweep lint test test-fast format tables clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.installed  ## create .venv with the exact tested versions

run: export OMP_NUM_THREADS = 1 # tensors this small gain nothing from a second thread, and lose much on a busy machine
run: setup  ## train on generated data: two baselines, MQSA-TED and the oracle, side by side
	$(BIN)/python -m seqgen.run -m model=popularity,transition,mqsa_ted,oracle task=first_run trainer.max_epochs=30 hydra.sweep.dir=$(RUN)
	$(BIN)/python -m seqgen.report $(RUN)

sweep: export OMP_NUM_THREADS = 1
sweep: setup  ## compare two models with three kinds of attention, two seeds each, side by side; ends in a page
	$(BIN)/python -m seqgen.run -m hydra/launcher=ray model=sasrec,mqsa_ted attention=softmax,multi_query,vae seed=1,2 task=sweep trainer.max_epochs=6 hydra.sweep.dir=$(SWEEP)
	$(BIN)/python -m seqgen.report $(SWEEP) --html $(SWEEP)/report.html
	@echo "Open $(SWEEP)/report.html in a browser."

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## style, types and all tests, in two processes
	$(BIN)/pytest $(WORKERS)

test-fast: lint  ## the same without the slow tests and those on real data
	$(BIN)/pytest $(WORKERS) -m "not slow and not data"

format: setup  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: setup  ## write the tables of the pages from the stored runs and the table of metrics
	$(BIN)/python experiments/tables.py

clean:  ## remove the environment and caches; outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
