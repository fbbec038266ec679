# `make demo` and `make test` are all that a newcomer needs. PYTHON chooses the interpreter of a new .venv. TORCH, as
# TORCH='torch==2.8.*', installs another torch than constraints.txt names; .venv keeps it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test test-cpp test-python test-lowest check format coverage docs venv build wheel sanitize test-arm chaos \
  mini-cluster mini-cluster-stop clean gpu-check
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build  ## a small scaling study on real Meta-World tasks, with a report
	python sweeps/launch.py grid=smoke executor=local
	python analysis/fit_scaling_laws.py runs/smoke
	@echo 'Over lunch: . $(VENV)/bin/activate && mtrl-sweep grid=laptop && mtrl-fit runs/laptop'

test: test-cpp test-python  ## the C++ and the Python tests

venv: $(STAMP)  ## .venv with all that is needed

# CUDA=1 takes nvcc from pip where CMake finds none (csrc/cuda/cuda.cmake says where it looks).
BUILD := python setup.py -q build_ext --inplace > build/log 2>&1
build: $(STAMP)  ## the extension; compiles only what changed. CUDA=1: with its CUDA kernels, for a GPU elsewhere too
	@mkdir -p build
ifeq ($(CUDA),1)
	@export MTRL_CUDA=ON; $(BUILD) || \
	  { grep -q 'there is no nvcc' build/log && python -m pip install -q -r csrc/cuda/nvcc.txt && $(BUILD); } || \
	  { cat build/log; exit 1; }
else
	@$(BUILD) || { cat build/log; exit 1; }
endif

ifneq ($(TORCH),$(if $(TORCH),$(shell cat $(VENV)/torch 2>/dev/null)))
.PHONY: $(STAMP)
endif
PIP := python -m pip install -q -c $(VENV)/constraints.txt
$(STAMP): pyproject.toml constraints.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH),echo '$(TORCH)' > $(VENV)/torch)
	sed "s|^torch==.*|$$(cat $(VENV)/torch 2>/dev/null || echo '&')|" constraints.txt > $(VENV)/constraints.txt
	$(PIP) setuptools pybind11 cmake ninja
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $(STAMP)

# zig is a clang that links against an old glibc, with a C++ library of its own inside.
wheel: $(STAMP)  ## a wheel in dist/ for Linux with glibc 2.28 or newer (RHEL 8), without CUDA kernels
	$(PIP) -r tests/wheel/requirements.txt
	rm -rf build/wheel/lib* build/wheel/*.whl
	env -u CMAKE_CXX_COMPILER_LAUNCHER MTRL_CUDA=OFF MTRL_TREE=build/wheel/cmake \
	  CXX='python -m ziglang c++ -target $(shell uname -m)-linux-gnu.2.28' \
	  python setup.py -q build -b build/wheel bdist_wheel -b build/wheel/dist -d build/wheel
	auditwheel repair --strip --plat manylinux_2_28_$(shell uname -m) -w dist build/wheel/*.whl

test-cpp: $(STAMP)  ## GoogleTest, where it is installed
	@tests/csrc/run build/tests

# Without restarts, since xdist 3.8 may wait for ever after a crash (its issues 1323 and 1378).
PYTEST := python -m pytest -n 2 --dist loadgroup --max-worker-restart 0
test-python: build  ## pytest, on two processes
	$(PYTEST)

test-lowest: $(STAMP)  ## the Python tests of the last commit with the lowest versions that pyproject.toml allows
	rm -rf build/lowest
	git clone -q . build/lowest
	python tests/lowest.py > build/lowest/constraints.txt
	PYTEST_ADDOPTS='-W default' $(MAKE) -C build/lowest test-python  # old versions warn of newer ones

check: build  ## what CI checks beside the tests
	ruff check .
	ruff format --check .
	python -m mypy
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror

format: $(STAMP)  ## formats Python and C++, and mends what ruff can
	ruff check --fix .
	ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

coverage: build  ## which lines of Python the tests run: build/coverage/index.html
	$(PIP) pytest-cov
	$(PYTEST) --cov=mtrl --cov=sweeps --cov=slurm --cov=analysis \
	  --cov-report=term:skip-covered --cov-report=html:build/coverage

docs: $(STAMP)  ## the pages of docs/ as a site in build/site; a broken link is an error
	$(PIP) -e '.[docs]' --no-build-isolation
	python -m mkdocs build --strict

# With PYTHON=... on the command line nothing is installed: that Python has what the checkout needs.
gpu-check: $(if $(filter command,$(firstword $(origin PYTHON))),,$(STAMP))  ## checks this machine's GPU; OUT=folder, HOST=1 rehearses without one
	$(PYTHON) benchmarks/gpu_check.py --out $(or $(OUT),gpu-check) $(if $(HOST),--on-host)

sanitize: $(STAMP)  ## the C++ tests under the address, undefined-behaviour and thread sanitizers
	tests/csrc/run build/sanitize-address address,undefined
	tests/csrc/run build/sanitize-thread thread

test-arm: $(STAMP)  ## the C++ tests built for 64-bit ARM and run under qemu (see tests/csrc/aarch64.cmake)
	tests/csrc/run build/arm '' -DCMAKE_TOOLCHAIN_FILE=tests/csrc/aarch64.cmake

chaos: build  ## faults of every kind, one after another, on a real Slurm, four seeds; takes long
	for seed in 1 2 3; do python -m tests.chaos.chaos --seed $$seed || exit 1; done
	python -m tests.chaos.chaos --seed 4 --pull

mini-cluster: $(STAMP)  ## a real Slurm on this machine, to try things on; `make mini-cluster-stop` ends it
	@python slurm/mini/cluster.py start

mini-cluster-stop: $(STAMP)
	@python slurm/mini/cluster.py stop

clean:  ## removes the environment and the build, never runs/
	rm -rf $(VENV) build mtrl/_core*.so *.egg-info
