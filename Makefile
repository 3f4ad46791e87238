# make quickstart [OUT=quickstart_out] [SEED=0]   mode collapse and its prevention, from nothing to a report
# make test                                       lint, format and tests
# make ladder [STUDY=laptop_reduced]              curves over sizes: gin_configs/scaling/STUDY.gin, in ladder_STUDY
#
# All make their own environment in .venv from a Python >= 3.11 and the package index that pip is configured for;
# a second run reuses it. PYTHON=python3.12 VENV=.venv312 takes another interpreter and another place.

OUT = quickstart_out
SEED = 0
STUDY = laptop_reduced
VENV = .venv
PYTHON =

BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quickstart test ladder clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

quickstart: $(VENV)/runtime.stamp
	$(BIN)/anchortrain quickstart --out "$(OUT)" --seed $(SEED)

ladder: $(VENV)/runtime.stamp
	$(BIN)/anchortrain scaling --gin_file gin_configs/scaling/$(STUDY).gin --out ladder_$(STUDY)

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

$(VENV)/runtime.stamp: setup.cfg pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in $(or $(PYTHON),python3.11 python3.12 python3); do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no usable Python among: $(or $(PYTHON),python3.11 python3.12 python3)." >&2; \
	    echo "make: Python 3.11 or newer with venv is needed (Debian: apt install python3.11-venv);" >&2; \
	    echo "make: name it with make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)."; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV): JAX, TensorFlow (for data only) and others, about 3 GB on disk, a few minutes."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/runtime.stamp
	@echo "Installing what the tests need on top (PyTorch and transformers, to compare with): a few minutes."
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
