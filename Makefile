# Everything runs in a virtual environment of the repository; only Python 3.10+ and make are needed.
PYTHON ?= python3
VENV ?= .venv
EDITION ?= container
PORT ?= 8080
PYTEST ?=
#: Half of a DAG's test is waiting, so four processes keep two cores busy.
JOBS ?= 4

#: Suites that start processes of Airflow or environments of their own: make e2e and the like run them.
SLOW := tests/e2e tests/e2e_celery tests/clients
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CELERY := .venvs/celery
PY := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := $(wildcard requirements/constraints-airflow-3.3-py$(PY).txt)

.DEFAULT_GOAL := help
.PHONY: help venv demo airflow test lint words docs unit contract dags clients e2e e2e-celery test-matrix nightly bench screenshots dist clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml requirements/dev.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> A virtual environment in $(VENV) (Python $(PY)): a minute or two, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@$(RUN) -m uv pip install --quiet --python $(RUN) -e . -r requirements/dev.txt $(addprefix -c ,$(CONSTRAINTS))
	@touch $(READY)

venv: $(READY) ## Make the virtual environment

demo: $(READY) ## Load data, build aggregates in a local AtScale engine, wait for them (EDITION=installer)
	@$(RUN) scripts/demo.py --edition $(EDITION)

airflow: $(READY) ## A whole Airflow with a local AtScale engine, on 127.0.0.1, until Ctrl-C (EDITION=, PORT=)
	@$(RUN) scripts/local_airflow.py --edition $(EDITION) --port $(PORT)

# In the order of the folders, because those with the longest files come first.
test: lint $(READY) ## All checks and tests that need no Airflow processes of their own
	@echo "==> Unit, contract and DAG-level tests"
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST) $(addprefix --ignore=,$(SLOW)) tests

lint: $(READY) ## ruff, mypy, the layers of the package, spelling, vocabulary
	@echo "==> ruff"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@echo "==> mypy (strict)"
	@$(RUN) -m mypy
	@echo "==> import-linter"
	@$(VENV)/bin/lint-imports --no-cache
	@$(RUN) scripts/layers.py --check
	@$(RUN) scripts/api_calls.py --check
	@$(MAKE) --no-print-directory words

words: $(READY)
	@echo "==> codespell, and the words that scripts/vocabulary.txt refuses"
	@$(VENV)/bin/codespell airflow_provider_atscale docs example_dags scripts tests *.md
	@! grep -rnEi --include=*.py --include=*.md -f scripts/vocabulary.txt \
		airflow_provider_atscale docs example_dags README.md CHANGELOG.md SECURITY.md || \
		{ echo "Choose other words: CONTRIBUTING.md has a style guide"; exit 1; }

unit contract dags: $(READY) ## One suite
	@$(RUN) -m pytest $(PYTEST) tests/$@

clients: $(READY) ## AtScale's own client, two versions, against the local engine
	@$(RUN) -m pytest $(PYTEST) tests/clients

e2e: $(READY) ## Injure real Airflow processes at named points and count the builds
	@$(RUN) -m pytest $(PYTEST) tests/e2e

$(CELERY)/.ready: pyproject.toml requirements/dev.txt requirements/celery.txt $(CONSTRAINTS)
	@echo "==> A virtual environment with the Celery provider in $(CELERY): a minute, once"
	@$(PYTHON) -m venv $(CELERY)
	@$(CELERY)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(CELERY)/bin/python -m uv pip install --quiet --python $(CELERY)/bin/python \
		-e . -r requirements/dev.txt -r requirements/celery.txt $(addprefix -c ,$(CONSTRAINTS))
	@touch $(CELERY)/.ready

e2e-celery: $(CELERY)/.ready ## The same on CeleryExecutor; needs the Debian packages postgresql and redis-server
	@$(CELERY)/bin/python -m pytest -rs $(PYTEST) tests/e2e_celery

test-matrix: $(READY) ## The suites on every supported Airflow
	@$(RUN) scripts/test_matrix.py $(MATRIX)

nightly: test clients e2e ## Everything, and what CI has no time for: all suites on every supported Airflow, CeleryExecutor
	@scripts/beside "$(MAKE) --no-print-directory e2e-celery" "$(RUN) scripts/test_matrix.py"

bench: $(READY) ## Measure the cost beside the peers (QUICK=1 for a short run)
	@$(RUN) tests/benchmarks/run.py $(if $(QUICK),--quick)
	@$(if $(QUICK),,$(RUN) tests/readme/generate.py)

$(VENV)/.docs: $(READY) requirements/docs.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The documentation needs Python 3.11 or newer; name one: make PYTHON=python3.11 docs"; exit 1; }
	@$(RUN) -m uv pip install --quiet --python $(RUN) -r requirements/docs.txt $(addprefix -c ,$(CONSTRAINTS))
	@touch $(VENV)/.docs

docs: $(VENV)/.docs ## Build the documentation into build/docs; a warning is an error
	@$(RUN) -m sphinx -b html -n -W --keep-going -q -E docs build/docs && echo "==> build/docs/index.html"

screenshots: $(READY) ## Check the web UI in a browser and make the pictures of the documentation
	@$(RUN) scripts/screenshots.py

dist: $(READY) ## Build wheel and sdist
	@$(RUN) -m uv build --quiet && ls dist

clean: ## Remove what the other targets made
	@rm -rf $(VENV) .venvs .demo .airflow .e2e .bench dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
