# The commands of the project.
#
#   make serve        install if needed, and serve a model      HOST= PORT= MODEL=
#   make test         install what tests need, lint, and run the tests      ARGS= go to pytest; JOBS= processes
#   make test-long    the tests that take minutes
#   make test-clients curl, Node, Java, requests and httpx against a live service
#   make lint         style and types
#   make docs         the documentation as a site, in site/
#   make bench        the service beside its peers; half an hour        ONLY=mosec
#   make soak         the service under mixed traffic for a long time        MINUTES=30
#   make overload     the service with ten times the requests that it can serve; hours      ARGS="--cells 1x16 mix"
#   make bench-samples   samples beside the data, by a classifier's features; 20 minutes   MODELS="a b"
#   make bench-anomaly   vae score beside PyOD's detectors; hours      ARGS="--only breast-cancer"
#
# TORCH_INDEX= names a package index that has PyTorch built for the CPU: on Linux the default index's build brings
# gigabytes of CUDA. It is used for torch alone, once, when the virtual environment is made.

PYTHON ?= python3
VENV ?= .venv
PEERS ?= benchmarks/anomaly/.venv
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= fashion-mnist
TORCH_INDEX ?=
ARGS ?=
ONLY ?=
MINUTES ?= 30
JOBS ?= auto

PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test test-long test-clients lint format docs bench bench-samples bench-anomaly soak overload clean

serve: $(VENV)/.served
	@exec $(VENV)/bin/vae serve $(MODEL) --host $(HOST) --port $(PORT)

test: lint
	$(VENV)/bin/pytest -m "not long and not clients" -n $(JOBS) --maxprocesses 8 --dist worksteal --durations=10 --doctest-modules tests model --cov --cov-report=term --cov-fail-under=95 $(ARGS)

test-long: $(VENV)/.tested $(VENV)/.docs
	$(VENV)/bin/pytest -m long $(ARGS)

test-clients: $(VENV)/.tested
	$(VENV)/bin/pytest -m clients -rs $(ARGS)

docs: $(VENV)/.docs
	$(VENV)/bin/mkdocs build --strict

lint: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.tested
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.tested
	$(VENV)/bin/python benchmarks/serving/run.py $(foreach name,$(ONLY),--only $(name)) $(ARGS)

soak: $(VENV)/.tested
	$(VENV)/bin/python benchmarks/soak/run.py --minutes $(MINUTES) --report benchmarks/SOAK.md $(ARGS)

overload: $(VENV)/.tested
	$(VENV)/bin/python -m benchmarks.overload $(ARGS)

bench-samples: $(VENV)/.tested
	$(VENV)/bin/python -m benchmarks.samples $(MODELS)

bench-anomaly: $(VENV)/.tested $(PEERS)/.installed
	$(VENV)/bin/python benchmarks/anomaly/run.py --peers $(PEERS)/bin/python $(ARGS)

$(PEERS)/.installed: benchmarks/anomaly/requirements.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )torch==2.13.0
	@$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/anomaly/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) benchmarks/serving/.venvs *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.torch: constraints.txt
	@echo "Making $(VENV) and installing PyTorch (a large download; TORCH_INDEX= for a build without CUDA) ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )torch
	@touch $@

$(VENV)/.served: $(VENV)/.torch pyproject.toml
	@echo "Installing vae-server ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.torch pyproject.toml
	@echo "Installing vae-server and what its tests need ..."
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.served

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[docs]'
	@touch $@
