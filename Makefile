# Every target sets up a virtual environment on its first call and finds it there afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready

.PHONY: setup demo test docs

setup: $(READY)

demo: $(READY)
	$(BIN)/medarts demo

test: $(READY)
	$(BIN)/python tools/check.py

docs: $(READY)
	$(BIN)/python tools/reference.py
	$(BIN)/zensical build --clean --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
