# Without make, three lines (on Windows .venv\Scripts\ instead of .venv/bin/):
#
#   python3 -m venv .venv
#   .venv/bin/python -m pip install -c constraints.txt -e .
#   .venv/bin/minivim demo --out runs/demo
#
# To test instead, install ".[book,dev,parity]" in the second line, and then run the
# commands of style, types, unit and chapters below.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint lab book browser bench weights clean style types unit chapters

help:
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# Stamp files, one for each set of extras: what is installed stays installed until
# pyproject.toml or constraints.txt changes.
EXTRAS_demo :=
EXTRAS_book := [book]
EXTRAS_browser := [book,dev,browser]
EXTRAS_test := [book,dev,parity,tensorboard]

.venv/.installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minivim needs Python >= 3.11, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$(EXTRAS_$*)"
	@touch $@

demo: .venv/.installed-demo  ## train both stages and the probe, write a report
	$(BIN)/minivim demo --out runs/demo

test: .venv/.installed-test  ## lint, types, tests, and every chapter executed
	@$(MAKE) --no-print-directory --keep-going -j1 $(CHECKS)

slow: .venv/.installed-test  ## the tests that take longer
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m slow

lint: .venv/.installed-test  ## only the linter and the type checker
	@$(MAKE) --no-print-directory --keep-going -j1 style types

# All four run, also after one has failed; make's exit status tells.
CHECKS := style types unit chapters

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/pyright

# One worker for each processor; a module of tests, or a chapter, stays in one of them.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope

unit:
	$(PYTEST)

chapters:
	JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 $(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout 300 \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg -p no:cacheprovider -p tests.environment notebooks

lab: .venv/.installed-book  ## open the chapters in JupyterLab
	$(BIN)/jupyter trust notebooks/*.ipynb
	$(BIN)/minivim lab

book: .venv/.installed-book  ## build the chapters as a site
	$(BIN)/sphinx-build -W --keep-going -b html -d book/_build/doctrees book book/_build/html

browser: .venv/.installed-browser book  ## move every slider of the site in a Chromium
	$(BIN)/python -m pytest -m browser tests/browser

bench: .venv/.installed-test  ## measure against PyTorch twins, and the cost of each loss
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.losses

weights: .venv/.installed-demo  ## train the shipped weights again
	$(BIN)/python -m minivim_lab.make_weights

clean:  ## remove everything that these commands made, the environment included
	rm -rf .venv runs build dist *.egg-info book/_build book/node_modules
	rm -rf book/notebooks book/api book/paper.md book/bibliography.md
	rm -rf .cache .pytest_cache .hypothesis .ruff_cache
	rm -f book/_static/shapes-*.js
