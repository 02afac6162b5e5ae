# `make book` builds the book, `make test` tests library, README and chapters.  Both set up .venv first.
.PHONY: setup test book text pages lint format clean

export JAX_PLATFORMS ?= cpu
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
	$(BIN)/python -m doctest README.md
	$(BIN)/python -m pytest -q -n auto --nbmake --nbmake-timeout=900 book

# Chapters run side by side into Jupyter Book's cache, which alone would run them one by one.
book: export JUPYTERCACHE := _build/.jupyter_cache
book: _build/stamp
	echo y | $(BIN)/jcache notebook add book/*.ipynb
	$(BIN)/jcache project execute --executor local-parallel --timeout 900
	$(BIN)/jupyter-book build book $(SPHINX)
	@echo; echo "The book is built.  Open $(CURDIR)/_build/html/index.html"

# All chapters run again when the library or a stored result has changed.
_build/stamp: .venv/installed $(DEPENDS)
	rm -rf _build
	mkdir -p _build && touch $@

# The text alone, strictly, without running a chapter.
text: .venv/installed
	mkdir -p _build
	sed 's/execute_notebooks: cache/execute_notebooks: "off"/; s/suppress_warnings: \[/&mystnb.glue, ref.numref, ref.ref, /' _config.yml > _build/text.yml
	$(BIN)/jupyter-book build book --path-output _build/text --config _build/text.yml $(SPHINX)

# The built pages in a browser, offline: needs chromium and chromium-driver.
pages: book
	$(BIN)/python -m pytest -q tests/pages.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf _build
