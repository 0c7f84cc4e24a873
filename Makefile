# make run         execute both notebooks; notebooks and HTML go to executed/
#                  (ARGS="-p SEED 7" changes a parameter, LOCKED=1 takes constraints.txt)
# make test        lint, unit tests, and both notebooks in the quick profile on phantoms
# make regress     rerun both notebooks on the real images and compare (QUICK=1: quickly)
# make report      notebooks and source as one HTML page and one PDF, in report/
# make submission  submission.zip: all files that are committed
# make bench       time this machine's training, into benchmarks/
# make clean       remove what these commands have made
# The first call sets up a virtual environment. PYTHON=python3.12 chooses its Python.

# These are read from the command line only: `=` overrides the environment.
PYTHON = python3
LOCKED =
QUICK =
ARGS =
REQUIREMENTS = requirements-dev.txt
CONSTRAINTS = $(if $(call is_yes,$(LOCKED)),constraints.txt)
VENV = .venv$(if $(call is_yes,$(LOCKED)),-locked)
is_yes = $(filter-out 0 n N no No NO false False FALSE off,$(1))

ifneq ($(words $(VENV))$(findstring ~,$(VENV)),1)
$(error VENV must be a path without spaces and ~)
endif

NOTEBOOKS = Task1_binary.ipynb Task2_multiclass.ipynb
BIN = $(VENV)/bin
NBVAL = $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=7200
# The file that marks an environment as made here. Nothing else is ever removed.
MARK = $(VENV)/made-by-make

# A user's settings of Python, pip, IPython, Jupyter and Matplotlib change nothing.
SETTINGS = $(abspath $(VENV))/settings
unexport PYTHONHOME PYTHONPATH PYTHONOPTIMIZE PYTHONSAFEPATH PYTHONWARNINGS
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_DRY_RUN PIP_NO_DEPS
unexport JUPYTER_PATH JUPYTER_CONFIG_PATH MPLBACKEND MATPLOTLIBRC
export PYTHONUTF8 = 1
export IPYTHONDIR = $(SETTINGS)/ipython
export JUPYTER_CONFIG_DIR = $(SETTINGS)/jupyter
export JUPYTER_DATA_DIR = $(SETTINGS)/jupyter
export MPLCONFIGDIR = $(SETTINGS)/matplotlib

.PHONY: help environment run test lint unit notebooks
.PHONY: regress report submission bench clean

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

CHECK_PYTHON = $(BIN)/python -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" \
	|| { echo "$(BIN)/python is not a working Python 3.11 to 3.13." \
	"Remedy: make clean, then the same command with PYTHON=python3.12, or another."; exit 1; }

# Complete means that the packages can be imported, whatever pip was told to do.
$(VENV)/complete: $(REQUIREMENTS) $(CONSTRAINTS)
	@if [ -e $(MARK) ]; then rm -rf $(VENV); fi
	@mkdir $(VENV) || { echo "Remedy: move $(VENV) away, or name another VENV."; exit 1; }
	@touch $(MARK) && mkdir -p $(VENV)/settings/ipython
	@echo "Setting up $(VENV) (once; some minutes, depending on the network) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Remedy: name another PYTHON, 3.11 to 3.13."; exit 1; }
	@$(CHECK_PYTHON)
	@$(BIN)/python -m pip install --quiet --no-compile $(REQUIREMENTS:%=-r %) $(CONSTRAINTS:%=-c %)
	@$(BIN)/python -c "import utils, latex2mathml, nbconvert, nbval, papermill, xdist"
	@touch $@

environment: $(VENV)/complete
	@$(CHECK_PYTHON)

run: environment
	@mkdir -p executed
	@for notebook in $(NOTEBOOKS); do \
		rm -f executed/$$notebook; \
		$(BIN)/python -m papermill --kernel python3 $(ARGS) $$notebook executed/$$notebook; \
		$(BIN)/python -m tools.check_run $$notebook executed/$$notebook || exit 1; \
		$(BIN)/python -m nbconvert --to tools.report.PageExporter executed/$$notebook || exit 1; \
	done

test: lint unit notebooks

lint: environment
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

unit: environment
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

notebooks: environment
	XRAY_DATA=phantom XRAY_WEIGHTS=none XRAY_PROFILE=quick \
		$(NBVAL) -q -n 2 --dist loadfile $(NOTEBOOKS)

regress: environment
	XRAY_PROFILE=$(if $(call is_yes,$(QUICK)),quick,full) $(NBVAL) -v $(NOTEBOOKS)

report: environment
	@$(BIN)/python -m tools.report

submission:
	@git archive --prefix=covid-xrays/ --output=submission.zip HEAD || (rm -f submission.zip; exit 1)
	@git status --short --untracked-files=no | sed 's/^/not committed, so not included: /'
	@ls -l submission.zip

bench: environment
	$(BIN)/python benchmarks/training_time.py --csv benchmarks/training_time.csv

clean:
	@for folder in .venv .venv-locked $(VENV); do \
		if [ -e $$folder/made-by-make ]; then rm -rf $$folder; fi; \
	done
	@rm -f $(NOTEBOOKS:%=executed/%) $(NOTEBOOKS:%.ipynb=executed/%.html)
	@rm -f report/report.html report/report.pdf submission.zip
	@rm -rf phantoms .pytest_cache .ruff_cache
	@rmdir executed report 2>/dev/null || true
