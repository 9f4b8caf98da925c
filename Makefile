# Everything starts here, on a fresh clone with Python >= 3.10, a C++ compiler and a package index:
#
#   make demo     fine-tune a model on real images through dalipipe       make lint   style and types, as checked in
#   make test     the fast tests           make test-slow   the others    make format brings code into that style
#   make bench    measure                  make fuzz        for a minute  make clean  what was built; distclean: .venv too
#   make bench-check  has anything become slower beside its reference, in this very run, than in the results that are there?
#   make gpu-report  on a GPU: all that is to be known of it in less than 8 minutes, with DATA: of real photographs
#   make bench-gpu  and at length: the JPEG decoder beside others, signals
#   make parity   operators, recipes and draws beside torchvision's: docs/parity.md (with DATA; else the page alone)
#
# Set on the command line as needed: PYTHON=python3.12  VENV=dir  DALI=cuda12|cuda13  DATA=folder of real data
#                                    ARGS="more arguments"  FUZZ_SECONDS=60  JOBS=tests at one time

PYTHON ?= python3
VENV ?= .venv
DATA ?=
ARGS ?=
FUZZ_SECONDS ?= 60
JOBS ?= $(shell cores=$$(nproc); echo $$((cores < 2 ? 2 : cores > 8 ? 8 : cores)))
# DALI for the CUDA that the driver can run; without a driver either one works.
DALI ?= $(shell driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1); \
          [ "$${driver%%.*}" -ge 580 ] 2>/dev/null && echo cuda13 || echo cuda12)

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
NATIVE := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)
CXX_FILES := $(NATIVE) $(wildcard tests/*/*.h tests/*/*.cpp)
WITH_DATA := $(if $(DATA),--data=$(DATA))

.PHONY: install demo test test-slow bench bench-check gpu-report bench-gpu parity lint format fuzz clean distclean

install: $(INSTALLED)

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or \
	  sys.exit("dalipipe needs Python 3.10 to 3.13, $(PYTHON) is %d.%d: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml setup.py $(NATIVE) | $(PY)
	@echo "== installing into $(VENV): the extension is built, torch and DALI ($(DALI)) are fetched where missing"
	$(PY) -m pip install --upgrade "pip>=23"
	$(PY) -m pip install --editable ".[$(DALI),demo,test,bench,lint]"
	@touch $@

demo: $(INSTALLED)
	$(VENV)/bin/dalipipe demo $(ARGS)

# Two processes at least: tests wait as much as they compute.
test: $(INSTALLED)
	$(PY) -m pytest -m "not slow" --numprocesses $(JOBS) --dist worksteal $(WITH_DATA) $(ARGS)

test-slow: $(INSTALLED)
	$(PY) -m pytest -m slow $(WITH_DATA) $(ARGS)

bench: $(INSTALLED)
	$(PY) -m pytest benchmarks $(WITH_DATA) $(ARGS)

bench-check: $(INSTALLED)
	$(PY) -m pytest benchmarks/test_stages.py benchmarks/test_operators.py --check $(ARGS)

gpu-report: $(INSTALLED)
	$(PY) benchmarks/gpu_report.py $(WITH_DATA) $(ARGS)

# What fails does not keep the rest from being measured.
bench-gpu: export FAIL_WITHOUT_CUDA = 1
bench-gpu: $(INSTALLED)
	status=0; \
	$(PY) benchmarks/gpu_report.py $(WITH_DATA) || status=$$?; \
	$(PY) -m pytest benchmarks/test_decode.py -s $(WITH_DATA) $(ARGS) || status=$$?; \
	$(PY) -m pytest benchmarks/test_signals_gpu.py -s $(ARGS) || status=$$?; \
	exit $$status

parity: $(INSTALLED)
	$(PY) benchmarks/parity.py $(or $(WITH_DATA),--page) $(ARGS)

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

fuzz: $(INSTALLED)
	$(PY) tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(ARGS)
	$(PY) tests/fuzz/state.py

clean:
	rm -rf build dist *.egg-info dalipipe/*.so $(INSTALLED) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find dalipipe tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
