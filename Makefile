# Two commands do everything: `make run` (the laptop pipeline) and `make test`. Both begin with `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup run experiments test test-slow lint clean up down deploy

setup: $(VENV)/.installed

# The stamp is younger than the lock file exactly when the environment is up to date, so a second call installs nothing.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	$(BIN)/python -m flows.commands.run

# Every experiment of the paper at laptop size; resumable, less than three hours on two cores (docs/experiments.md).
experiments: setup
	$(BIN)/python -m flows.experiments stages
	$(BIN)/dvc repro experiments/dvc.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m "slow or not slow"

# The servers on this machine (docs/operations.md): PostgreSQL, Prefect, MLflow, two workers.
up: setup
	$(BIN)/ghn stack up

deploy: setup
	$(BIN)/ghn stack deploy

down: setup
	$(BIN)/ghn stack down

clean:
	rm -rf $(VENV)
