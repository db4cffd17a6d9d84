# What a contributor needs; see CONTRIBUTING.md. PYTHON: one in which `pip install -e '.[cpu,test,dev]'` was run.
PYTHON ?= python

.PHONY: lint fix types test all docs

lint:		# the rules are in ruff.toml
	$(PYTHON) -m ruff check .

fix:		# mends what ruff can
	$(PYTHON) -m ruff check --fix .

types:		# the settings are in setup.cfg
	$(PYTHON) -m mypy

test:		# all but the slow tests; makes its own environment
	bash tools/run_tests.sh

all:
	bash tools/run_tests.sh --all

docs:		# writes docs/SETTINGS*.md from the code; then: both languages agree, links lead somewhere, commands are right
	$(PYTHON) tools/release/settings_page.py
	$(PYTHON) -m pytest -q tests/test_docs.py
