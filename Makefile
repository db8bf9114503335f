# make demo   run the main job on the embedded model and write a report
# make test   run the tests (the long ones too; under ten minutes on two cores)
# make check  format, lint, types, layers
# make docs   build the documentation into site/
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fast browser docs wheel clean

demo: .venv/.ok
	$(BIN)/precise-shield demo

test: .venv/.ok
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fast: .venv/.ok
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

check: .venv/.ok
	$(BIN)/ruff format --check src tests examples benchmarks studies docs
	$(BIN)/ruff check src tests examples benchmarks studies docs
	$(BIN)/mypy
	$(BIN)/lint-imports

browser: .venv/.ok
	$(BIN)/python -m pytest -m browser

docs: .venv/.ok
	$(BIN)/python docs/make.py

wheel: .venv/.ok
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf .venv dist build site

.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
