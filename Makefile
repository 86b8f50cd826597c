# The two commands: `make demo` and `make test`. Each makes .venv with what it needs first.
# make demo ARGS="optimizer=AdamW lr0=0.1" tries the demo with other training arguments.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow release trackers lint coverage mutants matrix docs clean

demo: $(VENV)/.installed
	$(BIN)/gradsafe demo $(ARGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# Before a release: all slow tests, those of trackers, and those that depend on the version under the oldest supported one.
release: slow trackers
	$(MAKE) matrix VERSIONS=8.3.218

# The tests that depend on the version, under each supported Ultralytics; VERSIONS="8.3.218 newest" for some of them,
# QUICK=1 for their wheels over the torch of .venv, OPTIONAL=1 to skip what cannot be set up.
matrix: $(VENV)/.installed
	$(BIN)/python tests/matrix.py $(if $(VERSIONS),--versions "$(VERSIONS)") $(if $(QUICK),--quick) $(if $(OPTIONAL),--optional)

# The tests of Comet, ClearML, DVC, Neptune and Ray Tune, with the real packages, offline.
trackers: $(VENV)/.installed
	$(BIN)/python tests/trackers.py

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

# Lines of the package that the default tests run, the trainings in processes of their own included.
coverage: $(VENV)/.installed
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov --cov-report=
	$(BIN)/coverage report --skip-covered --sort=cover

# Would the tests of clipping and of the verdict notice a slip? Half an hour; what survives: .venv/bin/mutmut results
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet "mutmut>=3.8"
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

# The site of docs/, in site/; fails on a warning.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist site mutants .coverage* .pytest_cache .mypy_cache .ruff_cache
