# `make demo` runs the whole job, `make test` the tests; each makes the machine ready first (scripts/bootstrap.py).

PYTHON ?= python3
BIN := .venv/bin

# One BLAS or FFT thread: the package spreads its work over threads itself, and library threads beside a busy
# process are slower by an order of magnitude.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export QT_API := pyside6
export PYTEST_QT_API := pyside6

# Further arguments: make demo ARGS="--shape 40x40", make test ARGS="-k solver"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports style format docs screenshots bench tree ready ready-dev clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ready  ## simulated beamline, scan, live reconstruction: pictures and files in demo-output/
	$(BIN)/nsbluesky demo --out demo-output $(ARGS)

test: ready  ## all tests
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: style types imports  ## ruff, mypy and the layers of the package

style: ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: export MYPY_NUM_WORKERS ?= 2
types: tree
	cd build/tree && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p nsbluesky
	$(BIN)/mypy --cache-dir build/mypy scripts

imports: tree
	cd build/tree && ../../$(BIN)/lint-imports --config ../../.importlinter --cache-dir ../import-linter

format: ready-dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: ready-dev  ## the documentation as web pages in docs/_build/html
	QT_QPA_PLATFORM=offscreen $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

screenshots: ready  ## pictures of every window for the documentation, in docs/images/windows
	$(BIN)/python docs/screenshots.py $(ARGS)

bench: ready  ## measure, and write benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks $(ARGS)

# The package as it is installed: devices/ and callbacks/ inside nsbluesky/, for tools that read source trees.
tree: ready-dev
	rm -rf build/tree
	mkdir -p build/tree/nsbluesky
	ln -s $(addprefix ../../../,$(wildcard nsbluesky/*) devices callbacks) build/tree/nsbluesky/

ready:
	@$(PYTHON) scripts/bootstrap.py test

ready-dev:
	@$(PYTHON) scripts/bootstrap.py dev

clean:  ## remove what the other targets made, the environment too
	rm -rf .venv build dist demo-output docs/_build docs/reference/api *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
