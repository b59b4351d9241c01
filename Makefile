# Every target sets itself up: a virtual environment in .venv, with only the packages that it needs.
# PYTHON chooses the interpreter (3.10 to 3.13) and REQUIREMENTS=requirements-gpu.txt the CUDA build, both
# when .venv is made: `make clean` first to change them. TESTS chooses what `make test` runs.

PYTHON ?=
REQUIREMENTS ?= requirements.txt
TESTS ?=

venv := .venv
python := $(venv)/bin/python
runs := $(venv)/$(REQUIREMENTS:.txt=.installed)
dev := $(venv)/requirements-dev.installed
service := $(venv)/requirements-export.installed $(venv)/requirements-service.installed
browser := $(venv)/requirements-browser.installed
axe := $(venv)/axe/node_modules/axe-core/axe.min.js
bench := $(venv)/requirements-bench.installed

.PHONY: help demo serve test browser test-browser faults fuzz lint bench results results-check clean
.DELETE_ON_ERROR:

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

demo: $(runs)  ## draw a data set, train on it, and write out/demo/report.html
	$(python) tools/demo.py

test: $(runs) $(dev)  ## run the tests on all cores, and name the slowest
	$(python) -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 $(TESTS)

serve: $(runs) $(service)  ## export the demo's VSRN, index its test pictures, and search them in a browser
	@test -f out/demo/vsrn/config.yaml || { echo "run make demo first"; exit 1; }
	$(python) tools/export_model.py --cfg_file out/demo/vsrn --out out/demo/bundle --overwrite
	awk 'NR == FNR {id[NR] = $$0; next} {print id[int((FNR + 4) / 5)] "\t" $$0}' \
	    data/scenes/test_ids.txt data/scenes/test_caps.txt > out/demo/captions.txt
	rm -rf out/demo/index
	$(python) tools/build_index.py --bundle out/demo/bundle --gallery data/scenes/test_ims.npy \
	    --captions out/demo/captions.txt --out out/demo/index
	$(python) tools/serve_retrieval.py --index out/demo/index --pictures data/scenes/images

browser: $(runs) $(dev) $(browser)  ## install Chromium (as root, with apt-get), and what drives and checks it
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	    { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	    { echo "install Chromium: apt-get install chromium"; exit 1; }
	@test -f $(axe) || npm install --silent --no-save --prefix $(venv)/axe axe-core@4.14.1

test-browser: browser  ## try the page in Chromium, with axe-core (SCREENSHOTS=DIR keeps pictures)
	AXE=$(axe) $(python) -m pytest tests/browser

faults: $(runs) $(dev)  ## kill, fill and damage training and indexes, and print what survived (under 25 minutes)
	$(python) tests/faults/run_all.py
	$(python) tests/faults/kill_index.py
	$(python) tests/faults/kill_service.py

fuzz: $(runs) $(dev)  ## damage 10,000 files of each kind that is read, and tell what is not one line (minutes of all cores)
	$(python) tests/fuzz/run_all.py --inputs 10000
	SCHEMA_EXAMPLES=500 $(python) -m pytest -p no:xdist tests/serving/app/test_schema.py

lint: $(dev)  ## check style, formatting and the layers
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(venv)/bin/lint-imports

bench: $(runs) $(bench)  ## measure against the baselines, and write docs/performance.md
	$(python) benchmarks/run_all.py

results: $(runs)  ## write the tables of docs/results.md and README.md from docs/results
	$(python) tools/write_results.py

results-check: $(runs)  ## fail where docs/results.md or README.md differs from docs/results
	$(python) tools/write_results.py --check

clean:  ## remove the virtual environment and caches; runs in out/ stay
	rm -rf $(venv) .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(venv)/made:
	@if ! { PYTHON=$(python) .ci/find-python && $(python) -m pip --version; } >/dev/null 2>&1; then \
	    interpreter=$$(PYTHON="$(PYTHON)" .ci/find-python) || exit; \
	    if [ "$$interpreter" = uv ]; then rm -rf $(venv) && uv venv --python 3.11 --seed $(venv); \
	    else "$$interpreter" -m venv --clear $(venv); fi; \
	fi
	@touch $@

$(venv)/%.installed: %.txt $(venv)/made
	$(python) -m pip install --disable-pip-version-check -r $<
	@touch $@

$(runs): requirements-common.txt
$(dev): requirements-backbone.txt requirements-export.txt requirements-onnx.txt requirements-index.txt requirements-milvus.txt requirements-service.txt
