# Set-up, the quick tier and the tests. No compiler, no conda: Python 3.11 and pip.
#
#   make report                  set up if needed, run the quick tier, print where the report is
#   make test                    set up if needed, run the everyday tests (make test-slow: all of them)
#   make docs                    run the commands of the pages on the three uses and on extending, as written
#   make site                    the documentation as a site, in site/; only its set-up needs the network
#   make faults                  kill, fill, damage and disturb every stage: a table in results/faults
#   make setup CUDA=cu126                               torch and spconv for a GPU; CUDA=cpu: the small CPU builds
#   make gpu-wheels FOR=3.12     what gpu-check needs on a Linux machine with torch, its Python's version and no network
#   make setup TORCH="torch==2.13.0 --index-url URL"    any other torch build
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
SITE_ENV ?= build/site-env
STAMP  := $(VENV)/.ready
PIP    ?= $(BIN)/python -m pip --disable-pip-version-check

# The stamp says for which CUDA the environment was made: later calls stay with it unless another one is asked for.
MADE_FOR := $(shell sed -n 's/^CUDA=//p' $(STAMP) 2>/dev/null)
ifneq ($(origin CUDA),command line)
CUDA   := $(MADE_FOR)
endif
BUILDS := aqr_bench/cli/cuda_builds.py
INDEX  := $(if $(CUDA),$(if $(findstring -url,$(TORCH)),,--index-url https://download.pytorch.org/whl/$(CUDA)))
GPU    := $(filter-out cpu,$(CUDA))
# spconv's CUDA builds have names of their own and the same module, which pip check does not know.
MISSED := ^aqr-bench [^ ]* requires spconv, which is not installed.$$
ACCEPTED = $(if $(GPU),$(MISSED),^$$)
ifneq ($(CUDA),$(MADE_FOR))
$(STAMP): other-builds
endif

WHEELS_FOR = $(foreach linux,2_28 2_27 2_17,--platform manylinux_$(linux)_x86_64) \
	--platform manylinux2014_x86_64 --platform manylinux1_x86_64

.PHONY: gpu-wheels other-builds report setup test test-slow docs site faults lint clean
.DEFAULT_GOAL := report

report: $(STAMP)
	@$(BIN)/aqr-bench run --tier $(TIER) --cores $(CORES)

setup: $(STAMP)
	@$(PYTHON) $(BUILDS) hint "$(CUDA)"

other-builds:

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED_OUT) $(ARGS)

test-slow: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --slow $(ARGS)

docs: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --slow $(SHARED_OUT) tests/docs $(ARGS)

site: $(SITE_ENV)/.ready
	@NO_MKDOCS_2_WARNING=1 $(SITE_ENV)/bin/mkdocs build --quiet
	@echo "site: $(CURDIR)/site/index.html (with search: $(PYTHON) -m http.server -d site)"

# Small, and apart from $(VENV): the site is built from sources that are read and not imported.
$(SITE_ENV)/.ready: pyproject.toml
	@$(PYTHON) -m venv $(SITE_ENV)
	@$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["optional-dependencies"]["docs"], sep="\n")' > $(SITE_ENV)/requirements.txt
	@$(SITE_ENV)/bin/python -m pip --disable-pip-version-check install --quiet -r $(SITE_ENV)/requirements.txt -c requirements.lock
	@touch $@

# Without dependencies: mmdet3d declares far more than is imported.
gpu-wheels: $(STAMP)
	@rm -rf wheels
	@$(PIP) download --quiet --no-deps --only-binary=:all: --python-version $(or $(FOR),3.12) $(WHEELS_FOR) \
		--dest wheels --requirement aqr_bench/cost/gpu_check/requirements.txt

# Half an hour; full disks and read-only folders need root, the clock needs faketime (docs/faults.md).
faults: $(STAMP)
	@$(BIN)/python tests/faults/campaign.py $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/snakemake --lint

# requirements.lock leaves torch and mmcv out: they are the two that depend on the machine.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found. aqr-bench needs Python 3.11: install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else "error: $(PYTHON) is Python %d.%d; aqr-bench needs 3.11. Try: make $(MAKECMDGOALS) PYTHON=python3.11" % v[:2])' || exit 2
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free > 6 else "error: set-up needs 6 GB of free disk here, %.1f GB are free" % free)' || exit 2
	@test -z "$(GPU)" || $(PYTHON) $(BUILDS) spconv "$(GPU)" >/dev/null || exit 2
	@echo "setting up $(VENV) (a few minutes, most of it download)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# pip takes another build of the same version for the one that is asked for, and spconv's builds share their files.
	@$(if $(filter other-builds,$?),$(PIP) freeze | sed -nE 's/^(torch|(spconv|cumm)(-cu[0-9]+)?)(==| @).*/\1/p' \
		| xargs --no-run-if-empty $(PIP) uninstall --quiet --yes)
	@$(PIP) install --quiet $(TORCH) $(INDEX)
	@$(if $(GPU),sed -E "s/^(spconv|cumm)==/\1-$$($(PYTHON) $(BUILDS) spconv $(GPU))==/",cat) requirements.lock > $(VENV)/requirements.lock
	@$(PIP) install --quiet --no-deps -r $(VENV)/requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation "$(MMCV)"
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check > $(VENV)/pip-check || ! grep -v '$(ACCEPTED)' $(VENV)/pip-check
	@echo "CUDA=$(CUDA)" > $(STAMP)
	@echo "set-up done"
	@$(if $(filter setup,$(MAKECMDGOALS)),,$(PYTHON) $(BUILDS) hint "$(CUDA)")

clean:
	rm -rf $(VENV) $(SITE_ENV) site .snakemake .pytest_cache .ruff_cache
