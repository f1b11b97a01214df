# Two commands matter: `make serve` runs the store, `make test` runs everything that proves it.
# Nothing here needs root; whatever a system lacks is named, with the Debian package that has it.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 6555
TESTS ?= tests

python := $(VENV)/bin/python
# Stamps: a virtual environment without its stamp is half made, or its interpreter is gone; it is made anew.
made := $(VENV)/.made
runtime := $(VENV)/.runtime
dev := $(VENV)/.dev
$(shell test -e $(made) && ! $(python) -c pass 2>/dev/null && rm -f $(made))

.DEFAULT_GOAL := help
.PHONY: help serve test check format demo bench clean

help:  ## show what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

serve: $(runtime)  ## run a server in the foreground (HOST=127.0.0.1 PORT=6555)
	@exec $(VENV)/bin/cairn serve --host $(HOST) --port $(PORT)

test: $(dev)  ## run the whole test suite (TESTS=tests/wire for a part)
	@$(python) -m pytest $(TESTS)

check: $(dev)  ## lint, layout, types
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@$(python) -m mypy

format: $(dev)  ## settle the layout, and mend what the linter can
	@$(python) -m ruff check --fix
	@$(python) -m ruff format

demo: $(runtime)  ## a server, a real data set, both clients, compared
	@$(python) demo/demo.py

bench: $(runtime)  ## benchmarks: they come with the compiled hot path
	@echo "make bench: this version has no benchmarks yet" >&2; exit 1

clean:  ## remove what was made
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info

$(made):
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: there is no $(PYTHON); on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: cairnkv needs Python 3.11 or newer; this is $$($(PYTHON) --version)." \
		"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install" \
		"python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; }
	@echo "make: making $(VENV)" >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(runtime): $(made) pyproject.toml
	@echo "make: installing cairnkv and what it needs to run" >&2
	@$(python) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(dev): $(made) pyproject.toml
	@echo "make: installing cairnkv and what its tests and checks need" >&2
	@$(python) -m pip install --quiet --disable-pip-version-check --editable '.[dev,msgpack]'
	@touch $(runtime) $@
