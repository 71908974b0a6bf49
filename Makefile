# make run    starts the sample system            make test   passes all tests
# make lint   ruff and mypy                       make fix    what ruff can mend by itself
# make wheel  proves the wheel in a fresh venv    make soak   kills it for minutes
# make bench  measures it beside what lies under it and others, for some minutes
# make bench-full  the same at length, with all curves, and writes docs/performance.md
# make clean  removes .venv and what tools leave behind

PYTHON ?= python3
BIN    := .venv/bin
BENCH  := .venv/bench/bin

.DEFAULT_GOAL := help
.PHONY: help run test soak lint fix wheel bench bench-full clean

help:
	@sed -n 's/^# //p' Makefile

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 …"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "error: venv is missing; on Debian: apt install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: .venv/installed
	$(BIN)/runtime run

test: .venv/developing
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

soak: .venv/developing
	$(BIN)/python -m pytest -m soak tests/faults

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy runtime plugins functions tests benchmarks

fix: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: .venv/developing
	$(BIN)/python tests/prove_wheel.py

## the others it is compared with pin libraries that the tests have newer: they get a venv of their own
.venv/benching: .venv/installed
	@test -x $(BENCH)/python || $(PYTHON) -m venv .venv/bench
	$(BENCH)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

bench: .venv/benching
	$(BENCH)/python -m benchmarks

bench-full: .venv/benching
	$(BENCH)/python -m benchmarks --full --json benchmarks/results.json
	$(BENCH)/python -m benchmarks.page

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .runtime out
