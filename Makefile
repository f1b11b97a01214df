# `make serve` runs a server, `make test` runs all tests. No target needs root. If the system lacks a program, an error
# names the Debian package.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 6555
TESTS ?= tests
# The suite waits for half of its time. On an idle computer, SPREAD="--numprocesses auto --dist loadfile" distributes it
# over the processors. Some tests measure durations.
SPREAD ?=
SECONDS ?= 300
PROTOCOL ?= both
EXAMPLES ?= 5000
# pytest's flag for tests that may run longer than pyproject.toml allows.
UNLIMITED := -o faulthandler_timeout=0
CERTS ?= build/certs
NAMES ?= localhost,127.0.0.1,::1
CLIENTS ?= app
# The part of the applications that `make test-applications` runs: all or ci.
PART ?= all

python := $(VENV)/bin/python
# Stamps: make creates a virtual environment again if its stamp or its interpreter is missing.
made := $(VENV)/.made
runtime := $(VENV)/.runtime
dev := $(VENV)/.dev
clients := $(VENV)/.clients
bench := $(VENV)/.bench
applications := build/applications.$(PART)
$(shell test -e $(made) && ! $(python) -c pass 2>/dev/null && rm -f $(made))

# An installation also succeeds without a compiler, so print the path in use.
say_features := $(python) -c 'import cairnkv; print("make: the path in use is", cairnkv.features()["path"])' >&2
sources := tools/install.py pyproject.toml setup.py $(shell find src -name "*.pyx" -o -name "*.pxd" -o -name "*.h")

.DEFAULT_GOAL := help
.PHONY: help serve certs test test-crash test-cluster test-queues test-clients test-applications test-differential test-redis-suite test-client-suite check format docs fuzz \
	simulate demo bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 26

serve: $(runtime)  ## run a server in the foreground (HOST=127.0.0.1 PORT=6555)
	@exec $(VENV)/bin/cairn serve --host $(HOST) --port $(PORT)

certs:  ## make certificates for tests: an authority, a server, clients (CERTS=build/certs NAMES=localhost,127.0.0.1,::1 CLIENTS=app)
	@$(PYTHON) tools/certs.py $(CERTS) --names $(NAMES) --clients $(CLIENTS)

test: $(dev)  ## run the whole test suite (TESTS=tests/protocol for a part)
	@$(python) -m pytest $(SPREAD) $(TESTS)

test-crash: $(dev)  ## kill durable stores, cut their power, let their system calls fail, damage their files (CRASHES=50, SEED=)
	@CRASHES=$(or $(CRASHES),50) $(if $(SEED),SEED=$(SEED)) $(python) -m pytest -s $(UNLIMITED) \
		tests/storage/test_disk_crash.py tests/storage/test_disk_damage.py tests/power

test-cluster: $(dev)  ## check the consistency of a cluster during each kind of fault (SECONDS=300 for each kind, SEED=)
	@CLUSTER_SECONDS=$(SECONDS) $(if $(SEED),SEED=$(SEED)) $(python) -m pytest -s $(UNLIMITED) -k "not queues" \
		tests/lab/consistency/test_cluster.py

test-queues: $(dev)  ## check the queues of a server and of a cluster during each kind of fault (SECONDS=300 for each kind, SEED=)
	@CLUSTER_SECONDS=$(SECONDS) $(if $(SEED),SEED=$(SEED)) $(python) -m pytest -s $(UNLIMITED) -k queues \
		tests/lab/consistency/queues/test_faults.py tests/lab/consistency/test_cluster.py

test-clients: $(clients)  ## test Redis clients, redis-cli and redis-benchmark with cairnkv (TARGET=redis: with redis-server)
	@$(python) -m pytest tests/clients

test-applications: $(dev) $(applications)  ## test packages that use Redis with cairnkv (TARGET=redis: with redis-server; PART=ci, RECORD=1)
	@$(python) -m pytest $(if $(filter ci,$(PART)),-m in_ci) tests/applications

test-differential: $(dev)  ## send the same random commands to redis-server and cairnkv, compare replies (EXAMPLES=5000)
	@EXAMPLES=$(EXAMPLES) $(python) -m pytest $(UNLIMITED) tests/redis/test_differential.py \
		tests/redis/test_script_differential.py

test-redis-suite: $(dev)  ## run the test suite of a checkout of Redis or Valkey with cairnkv (SUITE=DIR)
	@test -n "$(SUITE)" || { echo "make: name a checkout of Redis or Valkey: make test-redis-suite SUITE=DIR" >&2; exit 1; }
	@$(python) -m tests.redis.suite "$(SUITE)" $(SUITE_FLAGS)

test-client-suite: $(dev)  ## run the tests of a checkout of redis-py or ioredis about scripts with cairnkv (SUITE=DIR)
	@test -n "$(SUITE)" || { echo "make: name a checkout of redis-py or ioredis: make test-client-suite SUITE=DIR" >&2; exit 1; }
	@$(python) -m tests.redis.client_suites "$(SUITE)" $(SUITE_FLAGS)

check: $(dev)  ## check style, format, types and workflows
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@$(python) -m mypy
	@$(VENV)/bin/zizmor --offline --quiet --strict-collection .github
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml

format: $(dev)  ## format the code, and fix what the linter can fix
	@$(python) -m ruff check --fix
	@$(python) -m ruff format

docs: $(dev)  ## build the documentation site in build/site, and check its links
	@$(python) docs/diagrams.py
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict
	@echo "make: open build/site/index.html, or run: $(python) -m http.server --directory build/site" >&2

demo: $(runtime)  ## send a real data set through a server and both clients, and compare
	@$(python) demo/demo.py

bench: $(bench)  ## measure cairnkv and its peers in twenty minutes (BENCH=full for the largest sizes)
	@BENCH=$(BENCH) $(python) benchmarks/bench.py

fuzz: $(dev)  ## compare the native path with the pure Python path, with sanitizers (SECONDS=300 PROTOCOL=native|resp|both|tls|scripts)
	@$(python) -m tests.fuzz --seconds $(SECONDS) --protocol $(PROTOCOL)

simulate: $(dev)  ## simulate many clients on one server, each with its own model (SECONDS=300 or COMMANDS=, SEED= MODE=all PROCESSES=1)
	@$(python) -m tests.simulation $(if $(COMMANDS),--commands $(COMMANDS),--seconds $(SECONDS)) \
		$(if $(SEED),--seed $(SEED)) --mode $(or $(MODE),all) --processes $(or $(PROCESSES),1)

clean:  ## remove all generated files
	rm -rf $(VENV) tests/clients/node/node_modules tests/applications/node/node_modules build dist src/cairnkv/*/*.so src/cairnkv/*/*/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info

$(made):
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: there is no $(PYTHON); on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: cairnkv needs Python 3.11 or newer; this is $$($(PYTHON) --version)." \
		"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot create virtual environments; on Debian: apt-get install" \
		"python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; }
	@echo "make: creating $(VENV)" >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(runtime): $(made) $(sources)
	@echo "make: installing cairnkv and its dependencies, and compiling its native path: about two minutes" >&2
	@$(python) tools/install.py '.[all]'
	@$(say_features)
	@touch $@

$(dev): $(made) $(sources)
	@echo "make: installing cairnkv, the dependencies of tests and checks, and compiling the native path" >&2
	@$(python) tools/install.py '.[dev,docs,all]'
	@$(say_features)
	@touch $(runtime) $@

$(clients): $(dev) tests/clients/install.py tests/clients/node/package.json
	@echo "make: installing the Redis clients for the tests" >&2
	@$(python) tests/clients/install.py
	@touch $@

$(applications): $(dev) tests/applications/install.py $(wildcard tests/applications/python/*.txt) tests/applications/node/package.json
	@echo "make: installing the packages whose programs are tested" >&2
	@mkdir -p build
	@$(python) -m tests.applications.install $(PART)
	@touch $@

$(bench): $(made) $(sources)
	@echo "make: installing cairnkv and the clients of its peers" >&2
	@$(python) tools/install.py '.[bench,all]'
	@$(say_features)
	@touch $(runtime) $@
