# Set-up, the quick tier and the tests. No compiler, no conda: Python 3.11 and pip.
#
#   make report                  set up if needed, run the quick tier, print where the report is
#   make test                    set up if needed, run the everyday tests (make test-slow: all of them)
#   make docs                    run the commands of the pages on the three uses and on extending, as written
#   make faults                  kill, fill, damage and disturb every stage: a table in results/faults
#   make setup TORCH="torch==2.13.0 --index-url URL"    another torch build: CUDA or CPU-only, see README
#   make setup MMCV="mmcv==2.1.0"                       compiled mmcv instead of mmcv-lite

PYTHON ?= python3.11
VENV   ?= .venv
TORCH  ?= torch==2.13.0
MMCV   ?= mmcv-lite==2.1.0
TIER   ?= quick
CORES  ?= $(shell nproc 2>/dev/null || echo 2)
# The files of the tests, shared out among this many processes, each of which takes about 1 GB.
SHARED_OUT = -n $(CORES) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: report setup test test-slow docs faults lint clean
.DEFAULT_GOAL := report

report: $(STAMP)
	@$(BIN)/aqr-bench run --tier $(TIER) --cores $(CORES)

setup: $(STAMP)

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED_OUT) $(ARGS)

test-slow: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --slow $(ARGS)

docs: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --slow $(SHARED_OUT) tests/docs $(ARGS)

# Half an hour; full disks and read-only folders need root, the clock needs faketime (docs/faults.md).
faults: $(STAMP)
	@$(BIN)/python tests/faults/campaign.py $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint

# requirements.lock leaves torch and mmcv out: they are the two that depend on the machine.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found. aqr-bench needs Python 3.11: install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else "error: $(PYTHON) is Python %d.%d; aqr-bench needs 3.11. Try: make $(MAKECMDGOALS) PYTHON=python3.11" % v[:2])' || exit 2
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free > 6 else "error: set-up needs 6 GB of free disk here, %.1f GB are free" % free)' || exit 2
	@echo "setting up $(VENV) (a few minutes, most of it download)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$(MMCV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check --disable-pip-version-check >/dev/null || $(BIN)/python -m pip check
	@touch $(STAMP)
	@echo "set-up done"

clean:
	rm -rf $(VENV) .snakemake .pytest_cache .ruff_cache
