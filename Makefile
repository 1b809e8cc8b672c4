# Starts from nothing but Python >= 3.10: every target below creates $(VENV) and installs into it what it needs.
VENV ?= .venv
PYTHON ?= python3
# Where torch is installed from instead of PyPI, whose wheels bring CUDA: https://download.pytorch.org/whl/cpu, say.
TORCH_INDEX ?=
BIN := $(VENV)/bin
SOURCES := yolorep tests benchmarks examples train.py val.py detect.py export.py

.PHONY: help install demo test test-slow lint format clean

help:
	@echo "make demo       train, fuse and detect on rendered shapes (a few minutes); leaves a picture in runs/demo"
	@echo "make test       the fast tests          make test-slow  the slow ones"
	@echo "make lint       ruff, mypy, import-linter    make format  let ruff rewrite"
	@echo "make clean      remove $(VENV), builds and caches"
	@echo "Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves gigabytes of CUDA"

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "error: yolorep needs Python >= 3.10, found '$$($(PYTHON) --version 2>&1)' at '$(PYTHON)': name another one with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --editable '.[dev,export]'
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow || [ $$? -eq 5 ]  # 5: there is none

lint: $(VENV)/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
