# The two commands of the README are `make demo` and `make test`; both start from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without a GPU, pip takes a CPU build of torch where it finds one of this version (a wheel folder
# or index named in its configuration); PyPI's own build brings gigabytes of CUDA.
TORCH ?= $(if $(shell command -v nvidia-smi),torch,torch==2.13.0)
MODEL ?= minimind2

.PHONY: demo real-demo smollm2 test check lint clean

$(BIN)/activate: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(BIN)/activate

demo: $(BIN)/activate  ## merge and judge the small family that ships, offline
	$(BIN)/ledmerge demo demo/family

real-demo: $(BIN)/activate  ## fetch a real model, fine-tune it twice, merge, compare (MODEL=smollm2)
	$(BIN)/python -m pip install --quiet --requirement examples/demo/requirements.txt
	$(BIN)/python examples/demo/run.py --model $(MODEL)

smollm2: $(BIN)/activate  ## the small family's experts and merges on a real model (SIZE=small or full)
	$(BIN)/python -m pip install --quiet --requirement examples/smollm2/requirements.txt
	$(BIN)/python examples/smollm2/family.py $(if $(SIZE),--size $(SIZE))

test: $(BIN)/activate  ## the test suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(BIN)/activate  ## style, who may know whom, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test  ## everything CI runs

clean:
	rm -rf $(VENV) demo
