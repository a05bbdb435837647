# Tocsin. `make run` and `make test` need Python 3.11 or newer and make; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo unit test test-long coverage tools check hooks format reference screenshots lock audit bench bench-peers

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/.run  ## serve on http://127.0.0.1:8000 with a development key
	@$(BIN)/tocsin serve --dev

demo: $(VENV)/.run  ## see the whole path at work: two admins, a backend, a drop, and the ledger
	@$(BIN)/tocsin demo

# Otherwise each of some hundred processes compiles the service, and pytest the tests, for itself.
unit test test-long coverage: export PYTHONDONTWRITEBYTECODE :=
PARALLEL := --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.dev  ## run the tests that need no database, browser, network or node
	@$(BIN)/python -m pytest -q -m unit $(ARGS)

test: check tools  ## run all checks, and all tests that do not take minutes
	@$(BIN)/python -m pytest --numprocesses 5 $(PARALLEL) -m "not long" $(ARGS)

test-long: tools  ## run the tests that take minutes: faults, fuzzing, endurance, generated clients
	@$(BIN)/python -m pytest --numprocesses 3 $(PARALLEL) -m long $(ARGS)

# On its small disk there is no room for what coverage itself writes.
NOT_MEASURED := --deselect \
    tests/retention/test_archive_process.py::test_a_full_disk_leaves_neither_a_gap_nor_half_an_archive_until_there_is_room

coverage: tools  ## measure which lines and branches of the service `make test` covers, in all its processes
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest --numprocesses 5 $(PARALLEL) -m "not long" $(NOT_MEASURED) $(ARGS)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

tools: $(VENV)/.dev  # what the tests use and Python packages do not bring
	@$(BIN)/python -m scripts.system_packages
	@$(BIN)/python -m scripts.node_tools

check: $(VENV)/.dev  ## what CI runs before the tests: formatting, lint, types, imports, SBOM, migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m scripts.node_tools check
	@$(BIN)/python -m scripts.sbom check
	@$(BIN)/python -m pytest -q tests/database/test_migrations.py

hooks: $(VENV)/.dev  ## run the quick part of `make check` on each commit
	@$(BIN)/python -m scripts.node_tools
	@$(BIN)/pre-commit install

format: $(VENV)/.dev  ## format the code and fix what ruff and Biome can fix
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/python -m scripts.node_tools format

reference: $(VENV)/.dev  ## write the tables of docs/reference.md, the files of openapi/ and the SBOM from what they repeat
	@$(BIN)/python -m tests.reference
	@$(BIN)/python -m scripts.sbom

screenshots: $(VENV)/.dev  ## take the pictures of the README again: half an hour, for the dashboard; ARGS="-k 'not dashboard'" for less
	@KEEP_SCREENSHOTS=1 $(BIN)/python -m pytest $(ARGS) tests/console/test_screenshots.py

lock: $(VENV)/.dev  ## choose the newest versions again and write the lock files and the SBOM
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	@$(BIN)/python -m scripts.sbom

audit: $(VENV)/.dev  ## look for known advisories about the locked packages; fails if there are some (1), or if it cannot look (3)
	@$(BIN)/python -m scripts.audit

bench: $(VENV)/.dev  ## measure Tocsin beside its baselines, in about 8 minutes; ARGS="--only fanout" for less
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers:  ## install nginx with nchan, one of the baselines (Debian, as root); Debian starts the nginx it installs
	@test -e /usr/lib/nginx/modules/ngx_nchan_module.so || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnginx-mod-nchan >/dev/null; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tocsin needs Python 3.11 or newer; try make PYTHON=python3.11 …" >&2; exit 1; }
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the service needs into $(VENV) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run | $(BIN)/python
	@echo "Installing what the tests need into $(VENV) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
