# `make run` (the laptop pipeline) and `make test` begin with `make setup`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three for two cores: many a test waits for processes of its own. The longest files have few tests,
# and come early by their names; xdist would put files of few tests last.
TESTERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup lock run experiments test test-slow chaos lint docs notebooks clean up down deploy

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## install everything into .venv (7 GB)

# The lock is whole, so nothing is left to resolve (--no-deps): older pips refuse hashes where an
# extra of a package is asked for. The stamp is younger than the lock file exactly when the
# environment is up to date, so a second call installs nothing.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## resolve the dependencies anew (needs uv); make lock UPGRADE=--upgrade takes newer versions
	.ci/lock $(UPGRADE)

run: setup ## the pipeline on this machine: data, training, evaluation, report (ghn run)
	$(BIN)/ghn run

experiments: setup ## every experiment of the paper at laptop size; resumable, hours (docs/experiments.md)
	$(BIN)/ghn experiments stages
	$(BIN)/dvc repro experiments/dvc.yaml

lint: setup ## style, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## lint and the fast tests
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test-slow: setup ## all tests
	$(BIN)/pytest -m "not chaos"

chaos: setup ## a hundred kills, full disks, damaged files: the same results in the end
	$(BIN)/pytest -m chaos tests/chaos

docs: setup ## the site, in build/site; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

notebooks: setup ## a notebook of each example, in build/notebooks
	$(BIN)/python docs/site/literate.py build/notebooks

up: setup ## start the servers here: PostgreSQL, Prefect, MLflow, two workers (docs/operations.md)
	$(BIN)/ghn stack up

deploy: setup ## apply prefect.yaml: deployments, schedules, triggers
	$(BIN)/ghn stack deploy

down: setup ## stop the servers; data stays
	$(BIN)/ghn stack down

clean: ## remove .venv
	rm -rf $(VENV)
