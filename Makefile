# `make book` builds the book, `make test` tests library, README and chapters.  Both set up .venv first.
.PHONY: setup test book text pages lint format clean

export JAX_PLATFORMS ?= cpu
# Compiled programs are kept, by program and versions, and shared by all test processes and notebook
# kernels: also the small ones, of which there are most.  A limit of size would make JAX look at the
# whole folder whenever it writes.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/_build/jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= 0
# One that another process is writing just now is compiled again.
export PYTHONWARNINGS ?= ignore:Error reading persistent compilation cache entry:UserWarning
# Tests and chapters run side by side, and a BLAS that waits for a core that another one has takes several times as long.
export OPENBLAS_NUM_THREADS ?= 1
# JAX 0.9 takes the machine for another one at every program that it loads, and says so.
export TF_CPP_MIN_LOG_LEVEL ?= 3
PYTHON ?= python3
BIN := .venv/bin
# What chapters run and read, beside themselves.  Jupyter Book's cache does not look at it.
DEPENDS := $(shell find pinn_analysis book/results book/experiments -type f \( -name '*.py' -o -name '*.npz' \))
SPHINX := -W --keep-going -n

setup: .venv/installed

# neural-tangents without its dependencies: it asks for TensorFlow, which nothing here uses.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test,book]"
	$(BIN)/python -m pip install --quiet --no-deps neural-tangents==0.6.5
	touch $@

test: .venv/installed
	$(BIN)/python -m pytest -q -n auto
	$(BIN)/python -m pytest -q -n auto --nbmake --nbmake-kernel=python3 --nbmake-timeout=900 book

# Chapters run side by side into Jupyter Book's cache, which alone would run them one by one.
book: export JUPYTERCACHE := _build/.jupyter_cache
book: _build/stamp
	$(BIN)/python -m pytest -q tests/test_book.py -k kernel  # Names a chapter with the kernel of some editor.
	echo y | $(BIN)/jcache notebook add book/*.ipynb
	$(BIN)/jcache project execute --executor local-parallel --timeout 900
	$(BIN)/jupyter-book build book $(SPHINX)
	@echo; echo "The book is built.  Open $(CURDIR)/_build/html/index.html"

# All chapters run again when the library or a stored result has changed; compiled programs stay.
_build/stamp: .venv/installed $(DEPENDS)
	mkdir -p _build && find _build -mindepth 1 -maxdepth 1 ! -name jax_cache -exec rm -rf {} +
	touch $@

# The text alone, strictly, without running a chapter.
text: .venv/installed
	mkdir -p _build
	sed 's/execute_notebooks: cache/execute_notebooks: "off"/; s/suppress_warnings: \[/&mystnb.glue, ref.numref, ref.ref, /; s|: book/extensions|: ../book/extensions|g' _config.yml > _build/text.yml
	$(BIN)/jupyter-book build book --path-output _build/text --config _build/text.yml $(SPHINX)

# The built pages in a browser, offline: needs chromium and chromium-driver.
pages: book
	$(BIN)/python -m pytest -q tests/pages.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf _build
