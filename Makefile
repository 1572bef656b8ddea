# make demo: watch a guarded run      make test: the fast suite
# make check: all that CI runs        make fix: format and mend    make bench: the budgets    make docs

PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv does not read pip's settings: hand it the same wheel folder, if there is one
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PY) -m pip config get global.find-links 2>/dev/null))

.PHONY: setup demo test test-slow test-floor check fix bench docs docs-cli docs-gaps docs-rules clean

# uv takes seconds where pip takes a minute; where it cannot be had, pip does the same work
$(VENV)/.ok: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv && \
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e ".[dev]" || \
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

setup: $(VENV)/.ok

demo: setup
	$(BIN)/trimtab demo $(ARGS)

test: setup
	$(BIN)/python -m pytest -q -n 2 -m "not slow" $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -q -n 2 -m slow $(ARGS)

# the oldest torch and Python that are promised: make test-floor PY=python3.10 (a large download on Linux)
test-floor:
	$(PY) -m venv .venv-floor
	.venv-floor/bin/python -m pip install -q "torch==2.6.0" -e ".[demo,export,digits]" pytest pytest-timeout pytest-xdist hypothesis
	.venv-floor/bin/python -m pytest -q -n 2 -m "not slow" --ignore tests/docs $(ARGS)

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(MAKE) test
	$(MAKE) test-slow
	$(MAKE) docs

fix: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	for script in benchmarks/[a-z]*.py; do echo; $(BIN)/python $$script || exit 1; done

docs: setup
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-cli: setup
	$(BIN)/python docs/_pages.py cli.md

# the tables of what torch gives and what we give, by running both
docs-gaps: setup
	$(BIN)/python docs/_gaps.py

# the rules of the diagnosis and of the linter, from their own documents
docs-rules: setup
	$(BIN)/python docs/_pages.py rules.md lint.md

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache
