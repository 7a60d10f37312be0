# Nothing is needed beforehand but Python 3.10+ and make:
#   make demo   sets up .venv and draws from the shipped model
#   make test   sets up .venv and passes the tests
#   make reproduce   measures the numbers of README.md and docs/results.md again (2 minutes of two free cores)
PYTHON ?= python3
VENV ?= .venv
TEST_PROCESSES ?= 2
PY := $(VENV)/bin/python

.PHONY: demo test test-all reproduce docs lint format clean

demo: $(VENV)/.installed
	$(PY) -m mmprime demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-all: $(VENV)/.installed-dev
	$(PY) -m pytest -m "slow or not slow"

reproduce: $(VENV)/.installed-dev
	$(PY) -m mmprime evaluate likelihood --split val_vendor --tasks "image|text" --steps 4,16,64 --samples 4 --json out/measured/likelihood.json
	$(PY) -m mmprime evaluate likelihood --split val_vendor --tasks "text|image" --maskings token_synchronous --steps 4 --samples 4 --json out/measured/caption_likelihood.json
	$(PY) -m mmprime evaluate likelihood --model assets/models/sotu --json out/measured/text.json
	$(PY) -m mmprime evaluate likelihood --model assets/models/english --maskings token_synchronous --steps 16 --json out/measured/english.json
	$(PY) -m mmprime evaluate tokenizer --tokenizer assets/models/emoji_tokenizer --data assets/emoji --json out/measured/tokenizer.json
	$(PY) -m mmprime evaluate captions --num 300 --json out/measured/captions.json
	$(PY) -m mmprime report agree benchmarks/measured out/measured

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet -f .mkdocs/mkdocs.yml

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
