# make demo, make test, make lab: each sets itself up in .venv first (Python 3.11 or newer, nothing else).
PYTHON ?= python3
BIN := .venv/bin
SETTINGS := .venv/share/jupyter/lab/settings
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
DATA_DIR ?= $(MIMLAB_DATA_DIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test coverage test-browser test-packs test-slow bench bench-viewers lab lint clean

install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	mkdir -p $(SETTINGS)  # this JupyterLab saves the state of viewers, so that they live on without a kernel
	echo '{"@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": true}}' > $(SETTINGS)/overrides.json
	touch $@

# a browser: the machine's own Chromium or Chrome, else Debian's package, else playwright's download
.venv/browser: .venv/installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,browser]'
	command -v chromium || command -v chromium-browser || command -v google-chrome || (apt-get update && apt-get install -y --no-install-recommends chromium) || $(BIN)/playwright install --with-deps chromium
	touch $@

demo: .venv/installed
	$(BIN)/python -m mimlab demo

test: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# lines that no test runs; a third slower
coverage: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --cov=mimlab --cov-report=term-missing

test-browser: .venv/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'browser and not slow'

test-packs: .venv/installed
	MIMLAB_DATA_DIR=$(DATA_DIR) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m packs

test-slow: .venv/installed
	$(BIN)/python -m pytest -m 'slow and not browser'

# latencies of the viewers; leave the machine alone meanwhile
bench-viewers: .venv/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'browser and slow'

# speeds beside others; leave the machine alone meanwhile
.venv/peers: .venv/installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,peers]'
	touch $@

bench: .venv/peers
	$(BIN)/python -m mimlab bench --at 32px --patience 30 --out runs/bench-32px.json
	$(BIN)/python -m mimlab bench --at ti224 --patience 30 --out runs/bench-ti224.json

# a container's only user is often root, whom Jupyter turns away unless told
lab: .venv/installed
	MIMLAB_ROOT=$(CURDIR) $(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-metadata-keys 'metadata.mimlab' $(NOTEBOOKS)

clean:
	rm -rf .venv runs
