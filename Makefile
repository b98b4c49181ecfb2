# Mayfly: `make help` lists what there is.
#
# Nothing has to be there but make, a Python 3.11 or newer, and either root on Debian or Ubuntu, or Docker,
# Java 17, Maven and Redis: what is missing is installed or named, with the command that mends it.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready

# The newest that the machine has; PYTHON=/path/to/python names another.
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$name" && break; done)

# Where it is set, every process of Python compiles all of its modules anew: a gateway took twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run demo image test test-unit test-long faults faults-selftest accept bench bench-scale check lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY) ## start everything, run a task of every example, and serve until Ctrl-C
	@$(BIN)/python -m mayfly.stack up --examples

demo: $(READY) ## the same, then stop: exits 0 if every example gave what it should
	@$(BIN)/python -m mayfly.stack demo

image: $(READY) ## build Mayfly's own image, mayfly:0.1.0, where nothing can be pulled, too
	@$(BIN)/python -m mayfly.stack image

# Three at a time, file by file: most of what a test does is to wait for processes. Each has parts of its own. The
# folders in their order, for the slowest files have the fewest tests, and would else be left for the end.
test: $(READY) ## all tests, on real parts
	@$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-unit: $(READY) ## the tests that need no part: seconds
	@$(BIN)/pytest tests/unit

test-long: $(READY) ## 100,000 steps of the simulation and of the stateful tests, 10,000 requests and inputs at random: an hour
	@SIMULATION_STEPS=100000 STATEFUL_STEPS=100000 FUZZ_CASES=10000 $(BIN)/pytest \
		tests/simulation tests/stateful tests/fuzz -q

faults: $(READY) ## kill, stop and flush every part under 2,000 tasks or more, and check that none is lost: a quarter of an hour (root)
	@$(BIN)/python -m tests.faults

faults-selftest: $(READY) ## break each rule of the protocol on purpose, and see that the model catches it
	@$(BIN)/pytest tests/model -k "needed" -v

accept: $(READY) ## measure every promise in seconds or rates, and print what was seen
	@$(BIN)/python -m benchmarks.accept

bench: $(BENCH_READY) ## measure Mayfly beside its peers, some 14 minutes: the table, and whether each floor is met (root)
	@$(BENCH_VENV)/bin/python -m benchmarks.bench

bench-scale: $(BENCH_READY) ## rate and memory against backlog, functions, payload and dispatchers: plots into docs/
	@$(BENCH_VENV)/bin/python -m benchmarks.scale

check: $(READY) ## ruff, types, import rules, bandit, secrets, known vulnerabilities
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml --severity-level medium mayfly gateway dispatcher images
	@$(BIN)/python .ci/secret_scan.py
	@$(BIN)/python .ci/audit.py

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock and requirements-bench.lock
	@$(BIN)/uv pip compile pyproject.toml --group dev --universal --generate-hashes --upgrade \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --group bench --constraint requirements.lock --universal --generate-hashes \
		--upgrade --no-emit-index-url --no-header --quiet --output-file requirements-bench.lock

clean: ## remove what was built and what the stack keeps here: tasks, results, functions' logs
	-@if [ -x $(BIN)/mayfly ]; then $(BIN)/mayfly down; fi
	rm -rf $(VENV) $(BENCH_VENV) .mayfly .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again only when the lock changed. The mark comes last: an environment that was cut short has none.
$(READY): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11 or newer was found" >&2; \
		echo "to mend it: apt-get install python3, or PYTHON=/path/to/python make $(MAKECMDGOALS)" >&2; \
		exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "python: venv missing, installed by apt-get"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		else \
			echo "error: $(PYTHON) cannot make virtual environments" >&2; \
			echo "to mend it: sudo apt-get install python3-venv" >&2; \
			exit 1; fi; fi
	@echo "python: $(PYTHON), its packages go to $(VENV)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv --clear $(VENV)
	@test -x $(BIN)/uv || { awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock >$(VENV)/uv.txt && \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.txt; }
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	@touch $(READY)

# The peers that Mayfly is measured beside are nobody's dependency: they have an environment of their own.
$(BENCH_READY): $(READY) requirements-bench.lock
	@echo "benchmarks: their packages go to $(BENCH_VENV)"
	@test -x $(BENCH_VENV)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(BENCH_VENV)
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BENCH_VENV)/bin/python requirements-bench.lock
	@$(BIN)/uv pip install --quiet --no-deps --python $(BENCH_VENV)/bin/python --editable .
	@touch $(BENCH_READY)
