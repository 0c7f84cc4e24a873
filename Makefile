# make run         execute both notebooks; notebooks and HTML go to executed/ (LOCKED=1: versions of the committed run)
# make test        lint, unit tests, and both notebooks in the quick profile on phantoms
# make regress     rerun both notebooks on what is here and compare with the committed ones (QUICK=1: quick profile)
# make report      both committed notebooks and the source of utils as one HTML page and one PDF, in report/
# make submission  submission.zip: all files that are committed
# make bench       time this machine's training, and how it grows, into benchmarks/
# The first call sets up a virtual environment. PYTHON=python3.12 names another interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv$(if $(LOCKED),-locked)
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet $(if $(LOCKED),--constraint constraints.txt)
NOTEBOOKS = Task1_binary.ipynb Task2_multiclass.ipynb
# A user's settings must not change what a command of ours does.
unexport MPLBACKEND PYTHONPATH
export PYTHONUTF8 = 1

.PHONY: help run test lint unit notebooks regress report submission bench badge clean

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

$(VENV)/.installed: requirements.txt $(if $(LOCKED),constraints.txt)
	@echo "Setting up $(VENV) (once; some minutes, depending on the network) ..."
	@$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'needs Python 3.11 to 3.13'"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Adding to $(VENV) what tests and the report need ..."
	@$(PIP) --requirement requirements-dev.txt
	@touch $@

run: $(VENV)/.installed
	@$(BIN)/python tools/execute.py

regress: $(VENV)/.installed
	@XRAY_FRESH=$${XRAY_FRESH:-1} $(if $(QUICK),XRAY_PROFILE=quick) $(BIN)/python tools/execute.py --check

test: lint unit notebooks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 88 $(NOTEBOOKS)

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope

notebooks: $(VENV)/.installed-dev
	XRAY_DATA=phantom XRAY_WEIGHTS=none XRAY_PROFILE=quick $(BIN)/python -m pytest -n 2 --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=900 $(NOTEBOOKS)

report: $(VENV)/.installed-dev
	@$(BIN)/python tools/report.py

submission:
	@git archive --prefix=xray-classification/ --output=submission.zip HEAD || (rm -f submission.zip; exit 1)
	@git status --short --untracked-files=no | sed 's/^/changed since the last commit, so as it was there: /'
	@ls -l submission.zip

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/training_time.py --csv benchmarks/training_time.csv
	$(BIN)/python benchmarks/scale.py --csv benchmarks/scale.csv

# The repository's address for Colab: the README's badges and the form field of the notebooks.
badge:
	@case "$(REPOSITORY)" in */*) ;; *) echo "Say which: make badge REPOSITORY=owner/name"; exit 1;; esac
	@sed -i.bak -e 's|OWNER/NAME|$(REPOSITORY)|g' -e '/^<!-- Until/d' -e '/^-->$$/d' README.md
	@sed -i.bak 's|REPOSITORY = \\"\\"|REPOSITORY = \\"https://github.com/$(REPOSITORY)\\"|' $(NOTEBOOKS)
	@rm README.md.bak $(NOTEBOOKS:=.bak)

clean:
	rm -rf $(VENV) executed report submission.zip .pytest_cache .ruff_cache
