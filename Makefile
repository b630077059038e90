# Two commands set up all they need on a fresh machine: `make demo` and `make test`.
# PYTHON chooses the interpreter (3.10 or newer).

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
AGENTS := .venv-agents
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast test-matrix agents lint bench collector system clean

demo: $(READY)
	$(BIN)/otel-memoir demo

# Two at a time: most tests wait for a disk, a clock or another process. More would crowd them.
test: $(READY) $(VENV)/.uwsgi system lint collector
	$(BIN)/python -m pytest -q -n 2 --dist worksteal
	$(MAKE) agents
	$(BIN)/python tools/matrix.py

test-fast: $(READY)
	$(BIN)/python -m pytest -q -m "not slow and not collector"

test-matrix: $(READY)
	$(BIN)/python tools/matrix.py

# The real memory libraries have an environment of their own: they hold protobuf back.
agents: $(AGENTS)/.ready
	$(AGENTS)/bin/python -m pytest -q -p no:cacheprovider tests/test_lost_updates_real.py

lint: $(READY)
	$(BIN)/ruff check src tests tools benchmarks examples
	$(BIN)/mypy

# SCALE=quick ends in four minutes, SCALE=full has a backlog of ten million.
bench: $(READY)
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python benchmarks/run.py $(if $(SCALE),--$(SCALE))

# The binary is cached outside the checkout; without Go it says what to do.
collector:
	python3 tools/collector.py || [ "$$MEMOIR_TEST_WITHOUT_COLLECTOR" = 1 ]

# strace for the crash images, chronyd and libfaketime for the clock, prometheus for the alert
# rules; no service is started.
system:
	@tools/system_packages.sh

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed: set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -q -e . --group dev
	touch $@

$(AGENTS)/.ready: $(READY)
	test -x $(AGENTS)/bin/python || $(BIN)/python -m venv $(AGENTS)
	$(BIN)/python -m pip --python $(AGENTS)/bin/python install -q -e . --group agents
	touch $@

# It is compiled when it is installed, so a machine without a C compiler goes without it.
$(VENV)/.uwsgi: $(READY)
	$(BIN)/python -m pip install -q uwsgi >/dev/null 2>&1 \
	  || echo "uWSGI could not be built (a C compiler is needed): its two tests are skipped"
	touch $@

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache
