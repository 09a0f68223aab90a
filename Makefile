# cvmprobe: what one types. `make` alone prints this help.
# Each way of building has its own folder and environment, so that none can pick up another's objects.

PYTHON ?= python3
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
export PIP_DISABLE_PIP_VERSION_CHECK = 1

RUN_ENV := .venv
TEST_ENV := build/test/env
ASAN_ENV := build/asan/env
TSAN_ENV := build/tsan/env
BUILD_INPUTS := setup.py pyproject.toml constraints.txt $(wildcard native/*/*)
SOURCES := $(BUILD_INPUTS) $(shell find agent/cvmprobe -name '*.py' -o -name '*.pyi' -o -name '*.toml')
BUF := npx --yes @bufbuild/buf@1.75.0
PIP = -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help preflight run test check build asan tsan accuracy soak bench proto image cluster-test clean

help: ## print this help
	@echo "cvmprobe: measure what a cluster of confidential VMs costs"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

preflight: ## say what this machine lacks for a build
	@missing=""; \
	command -v $(PYTHON) >/dev/null || missing="$$missing\n  python3 >= 3.11        (Debian: apt-get install python3)"; \
	if command -v $(PYTHON) >/dev/null; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing="$$missing\n  python3 >= 3.11, found $$($(PYTHON) -V)        (or: make PYTHON=/path/to/python3.11)"; \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing\n  Python's venv module   (Debian: apt-get install python3-venv)"; \
	  $(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
	    || missing="$$missing\n  Python's C headers     (Debian: apt-get install python3-dev)"; \
	fi; \
	command -v $${CC:-cc} >/dev/null || missing="$$missing\n  a C compiler           (Debian: apt-get install gcc libc6-dev)"; \
	if [ -n "$$missing" ]; then printf "cvmprobe cannot be built here; missing:$$missing\n" >&2; exit 1; fi

$(RUN_ENV)/ready: $(BUILD_INPUTS) | preflight
	@echo "building into $(RUN_ENV) (once; about a minute)"
	@test -x $(RUN_ENV)/bin/python || $(PYTHON) -m venv $(RUN_ENV)
	@$(RUN_ENV)/bin/python $(PIP) setuptools cython
	@$(RUN_ENV)/bin/python $(PIP) --no-build-isolation --editable '.[agent,collector,cli,report]'
	@touch $@

build: $(RUN_ENV)/ready ## build the native engines into .venv

run: $(RUN_ENV)/ready ## measure this machine: collector and two agents, then a table and a snapshot
	@$(RUN_ENV)/bin/cvmprobe run quick --local

$(TEST_ENV)/ready: pyproject.toml constraints.txt | preflight
	@echo "making the test environment"
	@test -x $(TEST_ENV)/bin/python || $(PYTHON) -m venv $(TEST_ENV)
	@$(TEST_ENV)/bin/python $(PIP) setuptools cython
	@$(TEST_ENV)/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *sum(p["optional-dependencies"].values(), []), sep="\n")' > $(TEST_ENV)/requirements.txt
	@$(TEST_ENV)/bin/python $(PIP) --requirement $(TEST_ENV)/requirements.txt
	@touch $@

$(TEST_ENV)/installed: $(TEST_ENV)/ready $(SOURCES)
	@echo "building and installing the wheel under test"
	@rm -rf build/test/wheel && $(TEST_ENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/test/wheel .
	@$(TEST_ENV)/bin/python $(PIP) --force-reinstall --no-deps build/test/wheel/*.whl
	@$(TEST_ENV)/bin/python $(PIP) "$$(ls build/test/wheel/*.whl)[agent,collector,cli,report]"
	@touch $@

# Tests wait more than they work, so three run at a time, and afterwards those that compare rates, each alone. 5: there were none.
PYTEST_ALL = parallel=0; alone=0; \
	$(1)/bin/python -m pytest $(2) $(PYTEST_ARGS) -m "not alone" --numprocesses 3 --dist loadfile || parallel=$$?; \
	$(1)/bin/python -m pytest $(2) $(PYTEST_ARGS) -m alone || alone=$$?; \
	case $$parallel$$alone in 00|05|50) ;; *) exit 1;; esac

test: $(TEST_ENV)/installed ## all tests that need neither root nor other tools
	@$(call PYTEST_ALL,$(TEST_ENV))

check: $(TEST_ENV)/ready ## style, types, layers, generated code
	$(TEST_ENV)/bin/ruff check
	$(TEST_ENV)/bin/ruff format --check
	$(TEST_ENV)/bin/mypy
	PYTHONPATH=agent $(TEST_ENV)/bin/lint-imports
	PATH=$(TEST_ENV)/bin:$$PATH cython-lint native
	@if command -v npx >/dev/null; then echo "$(BUF) lint"; $(BUF) lint; else echo "SKIP buf lint: there is no npx (Debian: apt-get install npm)"; fi

accuracy: $(TEST_ENV)/installed ## as root: a known truth must be reported (network namespaces, throttled disks, cgroups)
	@$(TEST_ENV)/bin/python -m pytest tests/accuracy -rs $(PYTEST_ARGS)

bench: $(TEST_ENV)/installed ## side by side with iperf3, sockperf and fio (half an hour); results in build/bench/
	@$(TEST_ENV)/bin/python tests/bench/record_cost.py
	@$(TEST_ENV)/bin/python tests/bench/network.py
	@$(TEST_ENV)/bin/python tests/bench/disk.py
	@$(TEST_ENV)/bin/python tests/bench/stream_scaling.py
	@$(TEST_ENV)/bin/python tests/bench/rr_connections.py

soak: $(TEST_ENV)/installed ## campaigns with full counts: a thousand sessions, fuzz, false alarms and power of compare
	@CVMPROBE_SOAK=1 CVMPROBE_FUZZ=10 $(TEST_ENV)/bin/python -m pytest tests/soak tests/fuzz -rs $(PYTEST_ARGS)
	@$(TEST_ENV)/bin/python tests/bench/compare_power.py
	@$(TEST_ENV)/bin/python tests/bench/compare_same.py

proto: $(TEST_ENV)/ready ## generate agent/cvmprobe/v1 from proto/
	$(TEST_ENV)/bin/python proto/generate.py

$(ASAN_ENV)/installed $(TSAN_ENV)/installed: build/%/env/installed: $(SOURCES) | preflight
	@echo "building the wheel with the sanitizers of 'make $*'"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP) setuptools cython pytest pytest-asyncio pytest-xdist hypothesis
	@rm -rf build/$*/wheel && CVMPROBE_BUILD=$* $(@D)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/$*/wheel .
	@$(@D)/bin/python $(PIP) --force-reinstall --no-deps build/$*/wheel/*.whl
	@$(@D)/bin/python $(PIP) "$$(ls build/$*/wheel/*.whl)[agent]"
	@touch $@

asan: $(ASAN_ENV)/installed ## native tests under AddressSanitizer and UBSan
	@LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc \
	$(ASAN_ENV)/bin/python -m pytest tests/native --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

tsan: $(TSAN_ENV)/installed ## tests of the responder and the network engines under ThreadSanitizer
	@rm -f build/tsan/report.*
	@LD_PRELOAD="$$($${CC:-cc} -print-file-name=libtsan.so)" \
	TSAN_OPTIONS="exitcode=66 log_path=$(CURDIR)/build/tsan/report suppressions=$(CURDIR)/tests/native/tsan.supp" \
	$(TSAN_ENV)/bin/python -m pytest tests/native/test_responder.py tests/native/test_responder_door.py tests/native/test_open_admission.py \
	  tests/native/test_udp_door.py tests/native/test_udp_rr.py tests/native/test_udp_stream.py tests/native/test_tcp_rr.py \
	  tests/native/test_tcp_stream.py tests/native/test_tcp_crr.py tests/native/test_lifecycle.py -k "not stays" $(PYTEST_ARGS) \
	  || { cat build/tsan/report.* 2>/dev/null; exit 1; }

IMAGE_TOOL ?= $(shell command -v buildah >/dev/null && echo buildah bud || echo docker build)
IMAGE_VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' agent/cvmprobe/__init__.py)
IMAGE_ARGS ?=

image: ## build both container images with buildah or docker (IMAGE_ARGS="--build-arg BASE=...")
	@for target in agent collector; do \
	  $(IMAGE_TOOL) $(IMAGE_ARGS) --build-arg IMAGE=cvmprobe-agent:$(IMAGE_VERSION) --target $$target --file deploy/Dockerfile --tag localhost/cvmprobe-$$target:$(IMAGE_VERSION) . || exit 1; \
	done
	@$(firstword $(IMAGE_TOOL)) images | grep -E 'REPOSITORY|cvmprobe|python'

cluster-test: $(TEST_ENV)/installed ## tests in the cluster of KUBECONFIG; deploys there and removes everything again
	@$(TEST_ENV)/bin/python -m pytest tests/cluster $(PYTEST_ARGS)

clean: ## remove what was built
	rm -rf build $(RUN_ENV) agent/cvmprobe/native/*.so agent/*.egg-info
