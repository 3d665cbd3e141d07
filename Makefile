# make study   set up .venv, run the quick study on the built-in model, write runs/quick/report.html
# make test    set up .venv, check style, types and behaviour
# make test-all   the same, slow end-to-end checks included; those on Ray need a further download of 80 MB
#
# TORCH_INDEX: a package index to take torch from, such as PyTorch's own CPU builds.

PYTHON ?= python3
TORCH_INDEX ?=
BIN = .venv/bin

.PHONY: study test test-all

study: .venv/installed
	$(BIN)/adapter-study run quick
	$(BIN)/adapter-study report quick -o runs/quick/report.html

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy adapters analysis study
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test-all: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy adapters analysis study
	-$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[ray]"
	$(BIN)/python -m pytest -q -m "slow or not slow"

# torch first and pinned: left to the resolver, a newer build of several gigabytes might be taken.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
