# make demo and make test work on a fresh machine: each sets up .venv with what it needs.
# (make cannot work below a folder with a blank in its name.)
PYTHON ?= python3
# DeepSpeed comes as source: nothing of it is compiled now, and nothing later where there is no accelerator.
PIP_INSTALL = DS_BUILD_OPS=0 .venv/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
WHAT_IS_INSTALLED = pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format clean

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: .venv/installed-run ## the main job on the small default model, offline, in about three minutes
	.venv/bin/clusterlm demo

test: .venv/installed-for-work ## all tests; others: make test ARGS="-m 'not slow' tests/unit"
	.venv/bin/python -m pytest -n 2 --dist worksteal -m 'not alone' $(ARGS)
ifeq ($(ARGS),)
	.venv/bin/python -m pytest -m alone # with the machine for themselves
endif

check: .venv/installed-for-work ## style, types, floors, documents
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m tests.docs_check

format: .venv/installed-for-work ## let ruff mend the style
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean: ## remove .venv, caches and what was built
	rm -rf .venv build dist demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed-run: $(WHAT_IS_INSTALLED) | .venv/pyvenv.cfg
	@echo "installing clusterlm[run] into .venv (torch and its family: about 1.6 GB, a minute or two)"
	@$(PIP_INSTALL) --editable '.[run]'
	@touch $@

.venv/installed-for-work: $(WHAT_IS_INSTALLED) | .venv/installed-run
	@echo "installing what the tests and checks need into .venv"
	@$(PIP_INSTALL) --editable '.[run,test,check]'
	@touch $@

.venv/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "there is no $(PYTHON); name a Python 3.11 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); clusterlm needs 3.11 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
