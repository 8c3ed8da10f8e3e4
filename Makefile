# Two commands do everything:   make reproduce   and   make test
# Both build the environment first: .venv/ from data/environment.lock, with Python 3.11 and a package index and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
LOCK   := data/environment.lock
PIP_ARGS ?=
TESTS  ?= tests
# tests run in two processes with one thread each; WORKERS=0: in one process
WORKERS ?= 2
export PYTHONHASHSEED = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help env lab reproduce test notebooks readme export lint fix check hooks new-router new-paper new-dataset map clean

# what `make check` tests: metrics, contracts, registry and the repository itself; no model is loaded, no notebook executed
QUICK := $(wildcard $(addprefix tests/test_, $(addsuffix .py, metrics significance lint packaging contracts registry)))

help:
	@echo "make reproduce   environment, models and data, every notebook, figures/embedded/ and the book _book/index.html"
	@echo "make test        environment, tests"
	@echo "make lab         environment, then JupyterLab on the notebooks in nbs/ (what you run there changes no committed figure)"
	@echo "make notebooks   run the notebooks again and store their outputs in nbs/; writes README.md"
	@echo "make export      regenerate routercompanion/ from nbs/"
	@echo "make lint        places, imports, style and links; ARGS=--update lowers the counts of data/lint.json to what is left"
	@echo "make fix         repair what a machine can: style of tests/, the library, README.md, counts that have fallen"
	@echo "make check       lint, generated files, quick tests: everything that takes less than a minute"
	@echo "make new-router NAME=MyRouter FAMILY=difficulty   one notebook that is a router, found by its name everywhere"
	@echo "make new-paper NAME=my_paper      the same for a paper"
	@echo "make new-dataset NAME=my_set      the same for a public outcome set"
	@echo "make map         draw the map of the library again (nbs/map.ipynb)"
	@echo "make hooks       check every commit (pre-commit; nothing is downloaded)"
	@echo "make env         just the environment .venv/"
	@echo "make clean       remove results of runs that are not committed (not .venv/, not the cache of models)"

# The environment is current when its stamp holds the hash of the lock and of pyproject.toml. The stamp is written last, so an
# installation that was interrupted is done again. (.venv is made in place: an environment cannot be moved.)
env:
	@test -n "$(PYTHON)" || { echo "Error: no python3.11 found. Install Python 3.11, or say: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Error: $(PYTHON) is not Python 3.11, for which the lock is made. Say: make PYTHON=/path/to/python3.11"; exit 1; }
	@want=$$(cat $(LOCK) pyproject.toml | "$(PYTHON)" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'); \
	if [ -x $(PY) ] && [ "$$(cat $(VENV)/.stamp 2>/dev/null)" = "$$want" ]; then exit 0; fi; \
	set -e; rm -f $(VENV)/.stamp; \
	echo "Building the environment $(VENV)/ from $(LOCK) (some minutes; about 2 GB)"; \
	[ -x $(PY) ] && $(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); "$(PYTHON)" -m venv $(VENV); }; \
	$(PY) -m pip install --no-deps --progress-bar on $(PIP_ARGS) -r $(LOCK); \
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .; \
	echo "$$want" > $(VENV)/.stamp.tmp; mv $(VENV)/.stamp.tmp $(VENV)/.stamp

lab: env
	$(VENV)/bin/jupyter lab nbs $(ARGS)

reproduce: env
	$(VENV)/bin/routercompanion reproduce $(ARGS)

test: env
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest $(TESTS) -n $(WORKERS) --dist worksteal $(ARGS)

notebooks: env
	$(VENV)/bin/routercompanion notebooks $(ARGS)

readme: env
	$(VENV)/bin/routercompanion readme

export: env
	$(VENV)/bin/nbdev-export

lint: env
	$(PY) -m routercompanion.reproduce.lint $(ARGS)

# Notebooks are not rewritten by a machine: their outputs belong to their code.
fix: env
	$(PY) -m ruff check --fix --exit-zero --quiet tests
	$(VENV)/bin/nbdev-export
	$(VENV)/bin/routercompanion readme
	-$(PY) -m routercompanion.reproduce.lint --update $(ARGS)

check: env
	$(PY) -m routercompanion.reproduce.lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest $(QUICK) -k "not notebook_runs" -n $(WORKERS) --dist worksteal $(ARGS)

hooks: env
	$(PY) -m pre_commit install

FAMILY ?= difficulty
new-router: env
	$(PY) -m routercompanion.reproduce.generate router "$(NAME)" --family "$(FAMILY)"

new-paper: env
	$(PY) -m routercompanion.reproduce.generate paper "$(NAME)"

new-dataset: env
	$(PY) -m routercompanion.reproduce.generate data-set "$(NAME)"

map: env
	$(VENV)/bin/routercompanion notebooks --only map

clean:
	rm -rf .routercompanion _book _proc _docs .pytest_cache .hypothesis .benchmarks .ruff_cache .import_linter_cache build
