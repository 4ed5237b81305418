# Both targets set themselves up in a virtual environment; a second call finds it there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test setup

demo: $(READY)
	$(BIN)/medarts demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# A process for each core, with one thread each: with more, they would wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
