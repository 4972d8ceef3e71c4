# insitu: set-up and main jobs. `make` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Simulations and proofs already use a core each.
PYTEST := $(BIN)/pytest
PARALLEL := -n auto --dist worksteal
# YoWASP's: each compiles itself when it first runs, and of two tests that run it then, one would
# read what the other has half written.
TOOLS := yosys nextpnr-ice40 nextpnr-ecp5 icepack ecppack

.PHONY: help demo test lint format ci-slow sim lock clean

help:
	@echo 'make demo                  the main job: a network, simulated on generated weights'
	@echo 'make test                  the tests that take seconds'
	@echo 'make ci-slow               the tests that take minutes'
	@echo 'make lint                  ruff and mypy'
	@echo 'make format                let ruff format the code'
	@echo 'make sim TB=mac_array      one testbench by name; WAVES=1 records waveforms,'
	@echo '                           K=expression picks tests, SEED=number sets the seed'
	@echo 'make clean                 remove build/ and $(VENV)/'

demo: $(VENV)/insitu.stamp
	$(BIN)/insitu demo

test: $(VENV)/dev.stamp
	$(PYTEST) -m 'not slow' $(PARALLEL)

ci-slow: $(VENV)/dev.stamp
	$(PYTEST) -m slow $(PARALLEL)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sim: $(VENV)/dev.stamp
	@test -n '$(TB)' || { echo 'name a testbench: make sim TB=mac_array' >&2; exit 2; }
	$(PYTEST) tests/*/test_$(TB).py -v -m '' $(if $(K),-k '$(K)') $(if $(SEED),--seed $(SEED)) \
	    $(if $(filter-out 0,$(WAVES)),--waves)

# Both files pin packages, so a change of them is the only reason to install again.
$(VENV)/insitu.stamp: pyproject.toml constraints.txt
	@$(PYTHON) sim/preflight.py
	@echo 'Setting up $(VENV): a gigabyte of packages, a minute or two, once.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/insitu.stamp
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	@echo 'Letting yosys, nextpnr and the packers compile themselves, once.'
	@for tool in $(TOOLS); do $(BIN)/yowasp-$$tool --version > /dev/null 2>&1 || true; done
	@touch $@

# After a change of the pins: record what they resolve to.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --editable '.[dev]'
	{ echo '# Every package of .[dev], as tested. Made by `make lock`.'; \
	    build/lock/bin/pip freeze --exclude-editable; } > constraints.txt
	rm -rf build/lock

clean:
	rm -rf build $(VENV) *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
