# Nothing is needed beforehand but Python 3.10+ and make:
#   make demo   sets up .venv and draws from the shipped model
#   make test   sets up .venv and passes the tests
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: demo test test-all lint format clean

demo: $(VENV)/.installed
	$(PY) tools/demo.py

test: $(VENV)/.installed-dev
	$(PY) -m pytest

test-all: $(VENV)/.installed-dev
	$(PY) -m pytest -m "slow or not slow"

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf out runs .pytest_cache .mypy_cache .ruff_cache
