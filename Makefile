# Two commands do everything on a fresh Debian machine: `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
# One torch for everybody: the engine is compiled against it, and the parity figures hold for it.
TORCH_VERSION ?= 2.13.0
# CI turns warnings into errors; a newer compiler on a user's machine must not stop the demo.
WERROR ?= OFF
# As many jobs as there are cores, if each may need so many KiB of memory.
jobs_of = $(shell awk -v cores=$$(nproc) \
	'/MemTotal/ { jobs = int($$2 / $(1)); print jobs < 1 ? 1 : jobs < cores ? jobs : cores }' /proc/meminfo)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(call jobs_of,2097152)

# Python tests run side by side. Threads that wait for others leave them the core.
pytest = OMP_WAIT_POLICY=passive $(python) -m pytest -n $(call jobs_of,6291456) --dist worksteal

bin := $(abspath $(VENV))/bin
python := $(bin)/python
pip := $(python) -m pip --disable-pip-version-check
build := build
export PATH := $(bin):$(PATH)

build_stamp := $(VENV)/.stamp-build-$(TORCH_VERSION)
dev_stamp := $(VENV)/.stamp-dev-$(TORCH_VERSION)
peers_stamp := $(VENV)/.stamp-peers-$(TORCH_VERSION)
package_stamp := $(build)/.stamp-package-$(TORCH_VERSION)

python_code := python tests benchmarks examples setup.py
cpp_code := $(shell find csrc tests/cpp examples/cpp -name '*.h' -o -name '*.cpp')
headers := $(filter csrc/%.h,$(cpp_code))
tidy_stamps := $(patsubst %.cpp,$(build)/tidy/%.ok,$(filter csrc/%.cpp,$(cpp_code)))

.PHONY: help
help:  ## Show the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# --- environment ------------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@.ci/system-packages build
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(pip) install -qq 'pip>=25.1'  # the first that knows dependency groups

$(build_stamp): pyproject.toml | $(VENV)/bin/python
	@.ci/system-packages build
	@echo "installing torch $(TORCH_VERSION) and the build tools"
	@$(pip) install -qq --group build torch==$(TORCH_VERSION)
	@rm -f $(VENV)/.stamp-* && touch $@

$(dev_stamp): $(build_stamp)
	@.ci/system-packages test
	@echo "installing the test and lint tools"
	@$(pip) install -qq --group dev torch==$(TORCH_VERSION)
	@touch $@

# whisper.cpp is compiled here, for this processor: the wheel stops at AVX2. But without AMX, where its 8-bit
# kernels crash (ggml-org/llama.cpp issue 20824).
$(peers_stamp): $(dev_stamp)
	@echo "installing what is compared with (the first time takes minutes)"
	@CFLAGS='$(no_amx)' CXXFLAGS='$(no_amx)' \
		CMAKE_ARGS='-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH=$$ORIGIN' \
		$(pip) install -qq --no-binary pywhispercpp --group bench torch==$(TORCH_VERSION)
	@touch $@

no_amx := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)

$(package_stamp): $(build_stamp) setup.py pyproject.toml python/torchwhisper/version.py
	@echo "building torchwhisper ($(CMAKE_BUILD_PARALLEL_LEVEL) jobs; the first time takes minutes)"
	@TORCHWHISPER_CMAKE_BUILD_DIR=$(build) CMAKE_ARGS="-DTORCHWHISPER_WERROR=$(WERROR)" \
		$(pip) install -qq --no-build-isolation -e .
	@rm -f $(build)/.stamp-package-* && touch $@

# --- build ------------------------------------------------------------------------------------------------

# Ninja knows best what is out of date, so these two always ask it.
.PHONY: build
build: $(package_stamp)  ## Build the library and the Python extension in place
	@cmake --build $(build) --target torchwhisper _C
	@cmake --install $(build) --prefix python >/dev/null

.PHONY: build-tests
build-tests: $(dev_stamp) $(package_stamp)
	@cmake -S . -B $(build) -DTORCHWHISPER_BUILD_TESTS=ON -DTORCHWHISPER_WERROR=$(WERROR) >/dev/null
	@cmake --build $(build)
	@cmake --install $(build) --prefix python >/dev/null

.PHONY: demo
demo: build  ## Transcribe examples/jfk.flac with the bundled model
	@$(python) examples/transcribe.py examples/jfk.flac --model demo

.PHONY: wheel
wheel: $(dev_stamp)  ## Build the wheel into dist/
	@rm -rf dist $(build)/lib.* $(build)/bdist.*
	@TORCHWHISPER_CMAKE_BUILD_DIR=$(build) $(python) -m build --wheel --no-isolation

.PHONY: wheel-check
wheel-check: wheel  ## Install the wheel elsewhere and transcribe with it
	@rm -rf $(build)/wheel-check
	@$(pip) install -qq --no-deps --target $(build)/wheel-check dist/*.whl
	@cd $(build)/wheel-check && PYTHONPATH=. $(python) $(CURDIR)/examples/transcribe.py \
		$(CURDIR)/examples/jfk.flac --model demo --output_dir .

# --- checks -----------------------------------------------------------------------------------------------

.PHONY: test test-cpp test-python
test: test-cpp test-python  ## Build everything, run GoogleTest and pytest

test-cpp: build-tests
	@$(build)/tests/cpp/torchwhisper_tests --gtest_brief=1

test-python: build-tests
	@$(pytest)

.PHONY: parity
parity: build-tests  ## The whole comparison with openai-whisper (long)
	@$(pytest) tests/python/parity --parity-full

.PHONY: peers
peers: $(peers_stamp)  ## Install the other engines that make bench compares with

.PHONY: bench
bench: $(dev_stamp) build  ## Measure against the peers; tables and figures go to benchmarks/results/
	@$(MAKE) peers || echo "the peers cannot be installed here; going on with those that are"
	@for script in import transcribe accuracy batch encoder decode pull_2516; do $(python) benchmarks/bench_$$script.py; done

.PHONY: lint
lint: $(dev_stamp)  ## ruff, mypy, clang-format, clang-tidy
	@ruff check $(python_code)
	@ruff format --check $(python_code)
	@mypy
	@clang-format --dry-run -Werror $(cpp_code)
	@$(MAKE) -j$(CMAKE_BUILD_PARALLEL_LEVEL) tidy

# One stamp for each source, so that only what changed is looked at again.
.PHONY: tidy
tidy: $(tidy_stamps)

$(build)/tidy/compile_commands.json: CMakeLists.txt csrc/CMakeLists.txt $(wildcard csrc/cmake/*) | $(dev_stamp)
	@cmake -S . -B $(build)/tidy -G Ninja -DTORCHWHISPER_PCH=OFF -DTORCHWHISPER_OPENMP=OFF -DPython_EXECUTABLE=$(python) >/dev/null
	@touch $@

$(build)/tidy/%.ok: %.cpp .clang-tidy $(headers) $(build)/tidy/compile_commands.json
	@echo "clang-tidy $<"
	@timeout 300 clang-tidy --quiet -p $(build)/tidy $< 2>/dev/null
	@mkdir -p $(@D) && touch $@

.PHONY: format
format: $(dev_stamp)  ## Rewrite the code in the house's style
	@ruff check --fix $(python_code)
	@ruff format $(python_code)
	@clang-format -i $(cpp_code)

.PHONY: clean
clean:  ## Remove what was built (not the virtual environment)
	@rm -rf $(build) dist python/*.egg-info python/torchwhisper/*.so python/torchwhisper/include \
		python/torchwhisper/share
