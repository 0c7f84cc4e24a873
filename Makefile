# make run         set up a virtual environment and execute the notebooks; results go to executed/
# make test        lint, unit tests, and the notebooks in a quick profile on phantoms
# make regress     rerun the notebooks on the images and weights that are here, and compare with the committed ones
# make report      both executed notebooks and the source of utils as one HTML page and one PDF, in report/
# make submission  submission.zip: all tracked files, and the report's PDF if it was made
# make bench       time this machine's training, and put it into benchmarks/training_time.csv
# All take PYTHON=python3.12 for another interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= executed
CODE ?= $(wildcard utils/*.py)
NOTEBOOKS = $(wildcard Task1_binary.ipynb Task2_multiclass.ipynb)

.PHONY: run test lint unit notebooks regress report submission bench badge clean

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

unit: $(VENV)/.installed
	$(BIN)/python -m pytest

notebooks: $(VENV)/.installed
	XRAY_DATA=phantom XRAY_WEIGHTS=none XRAY_PROFILE=quick $(BIN)/python -m pytest --nbval-lax \
		--nbval-current-env --nbval-cell-timeout=900 $(NOTEBOOKS)

test: lint unit notebooks

# Cells marked NBVAL_CHECK_OUTPUT must print what is committed; a cell of each notebook checks its scores.
# Finished trainings are not taken up, unless XRAY_FRESH=0 is given.
regress: $(VENV)/.installed
	XRAY_FRESH=$${XRAY_FRESH:-1} $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=14400 $(NOTEBOOKS)

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/training_time.py --course-epochs 3 --csv benchmarks/training_time.csv

# The repository's address for Colab: the README's badges and the form field of the notebooks.
badge:
	@case "$(REPOSITORY)" in */*) ;; *) echo "Say which: make badge REPOSITORY=owner/name"; exit 1;; esac
	sed -i.bak -e 's|OWNER/NAME|$(REPOSITORY)|g' -e '/^<!-- Until/d' -e '/^-->$$/d' README.md
	sed -i.bak 's|REPOSITORY = \\"\\"|REPOSITORY = \\"https://github.com/$(REPOSITORY)\\"|' $(NOTEBOOKS)
	rm README.md.bak $(NOTEBOOKS:=.bak)

clean:
	rm -rf $(VENV) executed report submission.zip .pytest_cache .ruff_cache
