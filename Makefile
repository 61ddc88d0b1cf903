# Two commands are enough: `make demo` and `make test`. Each does all of its own set-up and reuses what the other left.

VENV := .venv
VCLOUD := $(VENV)/bin/vcloud
READY := $(VENV)/.ready
PYTEST := $(VENV)/bin/python -m pytest
SIDE_BY_SIDE := $(PYTEST) -n auto --max-worker-restart 0 $(if $(ONLY),-k "$(ONLY)")

# A run that takes longer begins no more tests, fails, and says what it found: CI ends it after 5400 s, and then it would not.
TEST_SECONDS := 4800

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-netns test-vm test-nested test-long bench setup clean

help:
	@echo "make demo         set up, then a protected shop on real VMs"
	@echo "make test         set up, then the whole test suite"
	@echo "make test-unit    no VM, no root"
	@echo "make test-netns   rules and guest programs in network namespaces, no VM"
	@echo "make test-vm      real VMs in private labs"
	@echo "make test-nested  a vApp under KVM, on a host that is itself a VM"
	@echo "make test-long    races, kills and random documents at full count"
	@echo "make bench        measurements, compared with their targets"
	@echo "make clean        remove the lab and the virtual environment"
	@echo "ONLY=WORDS        with any test target: only the tests whose names match, as for pytest -k"

setup: $(READY)

$(READY): pyproject.toml .ci/packages .ci/setup
	bash .ci/setup $(VENV)
	touch $@

demo: $(READY)
	bash .ci/demo

test: $(READY)
	$(SIDE_BY_SIDE) tests --ignore=tests/bench -m "not long" --durations=30 --session-timeout $(TEST_SECONDS)

test-unit: $(READY)
	$(SIDE_BY_SIDE) tests/unit tests/golden tests/test_style.py

test-netns: $(READY)
	$(SIDE_BY_SIDE) tests/netns -m "not long"

test-vm: $(READY)
	$(SIDE_BY_SIDE) tests/lab tests/vm -m "not long" --durations=10

test-nested: $(READY)
	$(SIDE_BY_SIDE) tests/nested --durations=10

test-long: $(READY)
	$(SIDE_BY_SIDE) tests --ignore=tests/bench -m long

bench: $(READY)
	$(PYTEST) tests/bench -s

clean:
	-test -x $(VCLOUD) && $(VCLOUD) lab down
	rm -rf $(VENV)
