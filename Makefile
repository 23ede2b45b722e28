# Two commands for a newcomer: `make quickstart` and `make test`. Both make .venv themselves.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/flan-train train --gin_file=t5x_configs/recipes/quickstart.gin

# Two test processes: JAX compiles on one core each.
test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist=worksteal --durations=20 tests

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
