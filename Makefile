# Everything runs in .venv, which `setup` creates and every other target asks for.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture check fix bench bench-learned bench-scale clean

help:  ## Show this list
	@echo "Habitus: raw event logs in, one vector per user out. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "PYTHON=python3.12 make setup chooses the interpreter (3.11 to 3.13)."

setup: $(READY)  ## Create .venv with all that the other targets need

# torch comes first and alone: with its pinned build there, nothing later asks for another one, with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## Real data, end to end: profiles, scores, report in out/demo
	$(BIN)/habitus demo --out out/demo

test: $(READY)  ## Run the tests and the examples in docstrings
	$(BIN)/pytest

torture: $(READY)  ## Kill commands, fill disks, draw hostile logs, forge files, far more than in the tests (40 minutes)
	HABITUS_TORTURE=1 $(BIN)/pytest -rs -s tests/test_killed.py tests/test_folders.py
	HABITUS_FUZZ=20 HABITUS_FUZZ_SEED=1 $(BIN)/pytest tests/test_fuzz.py
	HYPOTHESIS_PROFILE=torture $(BIN)/pytest tests/log/test_hostile.py

check: $(READY)  ## Lint, format, types and import order, changing nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fix: $(READY)  ## Format, and mend what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/python -m habitus.cli.page docs/cli.md

bench: $(READY)  ## Measure speed against plain references; results in benchmarks/results
	$(BIN)/python -m benchmarks

bench-learned: $(READY)  ## Check that what is learned is as good as the plain reference's
	$(BIN)/python -m benchmarks.learned

bench-scale: $(READY)  ## Measure growth up to a million synthetic users: half an hour, 5 GB of disk
	$(BIN)/python -m benchmarks.scale

clean:  ## Remove .venv, out, builds and caches
	rm -rf .venv out dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
