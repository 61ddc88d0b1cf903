# Two commands are enough: `make demo` and `make test`. Each does all of its own set-up and reuses what the other left.

VENV := .venv
VCLOUD := $(VENV)/bin/vcloud
READY := $(VENV)/.ready
PYTEST := $(VENV)/bin/python -m pytest
SIDE_BY_SIDE := $(PYTEST) -n auto --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-netns test-vm test-nested bench setup clean

help:
	@echo "make demo         set up, then a protected shop on real VMs"
	@echo "make test         set up, then the whole test suite"
	@echo "make test-unit    seconds: no VM, no root"
	@echo "make test-netns   rules and guest programs in network namespaces, no VM"
	@echo "make test-vm      real VMs in a private lab"
	@echo "make test-nested  the same on a host whose KVM works, made as a nested VM (slow)"
	@echo "make bench        measurements, as ratios"
	@echo "make clean        remove the lab and the virtual environment"

setup: $(READY)

$(READY): pyproject.toml .ci/packages .ci/setup
	bash .ci/setup $(VENV)
	touch $@

demo: $(READY)
	bash .ci/demo

test: $(READY)
	$(SIDE_BY_SIDE) tests --ignore=tests/bench -m "not nested" --durations=30

test-unit: $(READY)
	$(SIDE_BY_SIDE) tests/unit tests/golden tests/test_style.py

test-netns: $(READY)
	$(SIDE_BY_SIDE) tests/netns

test-vm: $(READY)
	$(SIDE_BY_SIDE) tests/lab tests/vm

test-nested: $(READY)
	$(PYTEST) tests/nested -m nested

bench: $(READY)
	$(PYTEST) tests/bench -s

clean:
	-test -x $(VCLOUD) && $(VCLOUD) lab down
	rm -rf $(VENV)
