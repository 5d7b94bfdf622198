# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# small models train fastest on one thread each, several side by side
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## make the environment in .venv from the pinned versions

$(READY): constraints.txt settings.ini setup.py
	$(PYTHON) -c 'import sys; sys.exit("the pinned versions need Python 3.11 or newer; give one as PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel
# torch first: with it in place nothing else asks for another build of it
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[notebooks,data,hub,onnx,cluster,dev]'
	touch $@

reproduce: setup  ## the main job on two CPU cores: every table and figure of the digits profile; the runs of Figure 5 are made here, the rest comes from records
	$(BIN)/learngene run all --profile digits --fresh figure5

reproduce-full: setup  ## the same with every run made on this machine, about three hours
	$(BIN)/learngene run all --profile digits --fresh

ancestry: setup  ## train the digits ancestry again (eight minutes on one core) into results/ancestry
	$(BIN)/learngene train digits/ancestry --again --save results/ancestry/local/vit_nano_p2_8.digits --results results/ancestry

bench: setup  ## speed: training beside timm's loop, building a descendant, the density pass; tables in results/bench
	$(BIN)/python -m learngene.app.bench

test: setup  ## every check: style, notebooks in step with the library, every notebook, unit tests
	$(BIN)/python -m pytest tests -q -n 2 --dist loadgroup --durations 10

fuzz: setup  ## random and damaged input for an hour, or for FUZZ_MINUTES; prints the number of cases and of faults
	PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $${FUZZ_MINUTES:-60}

lab: setup  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

sync: setup  ## after editing notebooks: export the library, clean the notebooks, remake README.md
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/readme.py

docs: setup  ## the documentation as a site in _docs/html, from docs/, the notebooks and the library
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	$(BIN)/python docs/build.py

clean:  ## remove what was made: environment, caches, your own results (not the committed records)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	git clean -fdXq results nbs learngene tests

.PHONY: help setup reproduce reproduce-full ancestry bench test fuzz lab sync docs clean
