# make run         set up a virtual environment and execute the notebooks; results go to executed/
# make report      both executed notebooks and the source of utils as one HTML page and one PDF, in report/
# make submission  submission.zip: all tracked files, and the report's PDF if it was made
# make test        lint, unit tests, and the notebooks in a quick profile on phantoms
# All take PYTHON=python3.12 for another interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= executed
CODE ?= $(wildcard utils/*.py)
NOTEBOOKS = $(wildcard Task1_binary.ipynb Task2_multiclass.ipynb)

.PHONY: run report submission test lint bench clean

$(VENV)/.installed: requirements.txt
	@echo "Setting up $(VENV) (once; some minutes, depending on the network) ..."
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'needs Python 3.11 to 3.13'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

run: $(VENV)/.installed
	$(BIN)/python tools/execute.py --out $(OUT) $(NOTEBOOKS)

report: $(VENV)/.installed
	$(BIN)/python tools/report.py --out report $(if $(CODE),--code $(CODE))

submission:
	$(PYTHON) tools/submission.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest
	XRAY_DATA=phantom XRAY_WEIGHTS=none XRAY_PROFILE=quick $(BIN)/python -m pytest --nbval-lax \
		--nbval-current-env --nbval-cell-timeout=900 $(NOTEBOOKS)

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/task1_pipeline.py

clean:
	rm -rf $(VENV) executed report submission.zip .pytest_cache .ruff_cache
