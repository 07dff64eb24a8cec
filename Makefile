# What the README's commands do. Everything is set up in .venv, nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
SIDE_BY_SIDE := -n 4 --dist worksteal
# the tests of the modules that pyproject.toml names under coverage and mutmut
MEASURED := tests/protocol tests/test_envelope.py tests/test_nesting.py $(patsubst %,tests/journal/test_%.py,aside figures journal_retention opening progress segments store)
PIP := $(BIN)/pip --disable-pip-version-check --quiet

# Each process would compile all it imports anew, tests with their rewritten asserts: ten seconds for a worker of pytest.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast search fuzz outages chaos power soak month coverage mutants check format lint types bench bench-quick dist deb sbom audit lock clean

demo: $(VENV)/.run  ## watch the main job on the embedded simulator
	@$(BIN)/rc-push demo $(DEMO)

test: $(VENV)/.dev  ## all tests, or those of TESTS=FILE
ifdef TESTS
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)
else
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone and not chaos"
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m alone
	@$(BIN)/python -m pytest -n 6 --dist worksteal -m chaos tests/chaos
endif

test-fast: $(VENV)/.dev  ## the tests that start no processes
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not e2e" $(TESTS)

search: $(VENV)/.dev  ## the tests of properties, with examples drawn anew, twenty times as many
	@RC_PUSH_SEARCH=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not e2e" --timeout 1800 $(TESTS)

fuzz: $(VENV)/.fuzz  ## search for SECONDS=60 in each target, or in TARGET=frames, for what breaks a promise
	@$(BIN)/python fuzz/run.py --seconds $(or $(SECONDS),60) $(TARGET)

outages: $(VENV)/.dev  ## rotations, restarts and dead connections, for longer than `make test` has time for; prints the tables
	@RC_PUSH_OUTAGES=1 $(BIN)/python -m pytest -s tests/e2e/test_outages.py

power: $(VENV)/.dev  ## cut the power CUTS times, in a model of a disk; tells how many states it has looked at
	@RC_PUSH_POWER_CUTS=$(or $(CUTS),3000) $(BIN)/python -m pytest -n 2 --dist worksteal tests/power

coverage: $(VENV)/.dev  ## branches of what the promise rests on; fails where its own tests leave one out
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -p no:cacheprovider -n 2 --dist worksteal $(MEASURED)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

mutants: $(VENV)/mutants/.done  ## small mistakes in the same modules, one at a time: which does no test notice? An hour or two; MUTANTS='rc_push.nesting*' for some
	@$(VENV)/mutants/bin/python tests/mutants.py run $(MUTANTS)
	@$(VENV)/mutants/bin/python tests/mutants.py afresh $(MUTANTS)
	@$(VENV)/mutants/bin/python tests/mutants.py results
	@$(VENV)/mutants/bin/python tests/mutants.py table

soak: $(VENV)/.dev  ## 500 events a second and one fault after the other for MINUTES=60; fails where something grows or is lost
	@$(BIN)/python tests/soak/soak.py --minutes $(or $(MINUTES),60) $(SOAK)

month: $(VENV)/.dev  ## thirty days, with all that ends and is renewed, in six minutes; fails where something is lost
	@$(BIN)/python tests/soak/month.py --days $(or $(DAYS),30) $(MONTH)

chaos: $(VENV)/.dev  ## scenarios of faults, judged by an oracle: SEEDS=1000 of them, or SEED=1234 again; JOBS=2 at a time
	@$(BIN)/python tests/chaos/run.py $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) $(if $(JOBS),--jobs $(JOBS))

check: format lint types coverage bench-quick test  ## what CI runs

format: $(VENV)/.dev
	@$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

bench: $(VENV)/.bench  ## measure; a table, see docs/performance.md
	@$(BIN)/python benchmarks/bench.py $(BENCH)

bench-quick: $(VENV)/.bench  ## the ratios to other clients, in a minute; fails where one is below its floor
	@$(BIN)/python benchmarks/bench.py --quick $(BENCH)

dist: $(VENV)/.run  ## sdist and wheel, in dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build -d dist

deb: dist  ## a Debian package of its own environment, in dist/ (on Debian and its kin)
	@package/deb.sh dist/*.whl dist

sbom: $(VENV)/.dev  ## what an installation consists of: a bill of materials (CycloneDX), in dist/sbom.json
	@mkdir -p dist && $(BIN)/python package/sbom.py > dist/sbom.json

audit: $(VENV)/audit/.done  ## look up what is known to be vulnerable of what an installation consists of (needs a network)
	@$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements/run.txt || \
	  { echo "either something is vulnerable, or not all could be looked up, for which a network is needed: see above" >&2; exit 1; }

lock: ## renew requirements/*.txt (needs uv)
	$(COMPILE) pyproject.toml -o requirements/run.txt
	$(COMPILE) --group build -c requirements/run.txt -o requirements/build.txt
	$(COMPILE) pyproject.toml --group dev -c requirements/run.txt -o requirements/dev.txt
	$(COMPILE) --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(COMPILE) --group fuzz -c requirements/dev.txt -o requirements/fuzz.txt
	$(COMPILE) --group audit -c requirements/dev.txt -o requirements/audit.txt
	$(COMPILE) --group mutants -c requirements/dev.txt -o requirements/mutants.txt

clean:
	rm -rf $(VENV) .coverage* mutants .fuzz build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("rc-push needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is incomplete; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) (about a minute) …" >&2
	@$(PYTHON) -m venv $(VENV)

# hatchling comes from the lock file, so that the project itself is built without a download
$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/pip
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# peers that keep nothing: Slack's client, and RingCentral's for Node where there is npm
$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@if command -v npm >/dev/null; then cd tests/e2e/node && npm ci --ignore-scripts --no-audit --no-fund --silent; fi
	@touch $@

# without it, Hypothesis searches
$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.dev
	@$(PIP) install --require-hashes -r requirements/fuzz.txt || echo "atheris cannot be had for this Python" >&2
	@touch $@

# in a place of its own: some libraries change with what is installed beside them
$(VENV)/audit/.done: requirements/audit.txt | $(BIN)/pip
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip --disable-pip-version-check --quiet install --require-hashes -r requirements/audit.txt
	@touch $@

$(VENV)/mutants/.done: requirements/dev.txt requirements/mutants.txt | $(BIN)/pip
	@$(PYTHON) -m venv $(VENV)/mutants
	@$(VENV)/mutants/bin/pip --disable-pip-version-check --quiet install --require-hashes -r requirements/dev.txt -r requirements/mutants.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
