# On a fresh machine with python3 (3.11 or newer) and make, `make sample` and `make test` do everything themselves.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
PARALLEL := -n auto --maxprocesses 4 --dist loadfile  # the tests of a file share their Ray
SMALL  := -name __pycache__ -o -name '*.egg-info'

.DEFAULT_GOAL := help
.PHONY: help sample test faults cluster soak-cluster check shape format real real-synthetic real-bucket soak clean
.PHONY: bench bench-millions bench-cold bench-resume bench-scale bench-workers bench-start bench-objects bench-pieces

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

sample: $(VENV)/.installed  ## run the sample with r3po and show its table
	@cd sample && "$(CURDIR)/$(BIN)/r3po" run config.yaml
	@cd sample && "$(CURDIR)/$(BIN)/python" -c 'import pandas; print(pandas.read_parquet("output_dir/parquet"))'

test: $(VENV)/.installed-dev  ## run the tests, without those that inject faults
	@$(BIN)/python -m pytest -q $(PARALLEL) -m 'not faults and not long and not cluster'

faults: $(VENV)/.installed-dev  ## kill, hang, fill, damage: what must hold for every change (docs/faults.md)
	@$(BIN)/python -m pytest -q -m '(faults or long) and not cluster' tests/faults tests/ray
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m '(faults or long) and not cluster' tests/jobs tests/unit

cluster: $(VENV)/.installed-dev  ## three machines, made of namespaces: killed, cut off, added (as root, on Linux)
	@PATH="$$PATH:/usr/sbin:/sbin"; command -v ip nsenter setpriv >/dev/null || \
		{ apt-get -qq update && apt-get -qq install -y iproute2 util-linux; } >/dev/null 2>&1 || true
	@$(BIN)/python -m pytest -q -rs -m cluster

check: $(VENV)/.installed-dev  ## format, lint, types, import contract, shape, tests
	@echo 'format ...' && $(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff .; exit 1; }
	@echo 'lint ...' && $(BIN)/ruff check --quiet .
	@echo 'types ...' && $(BIN)/mypy --strict --no-error-summary r3po
	@echo 'imports ...' && report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }
	@echo 'shape ...' && $(BIN)/python tools/shape.py r3po
	@echo 'tests ...' && $(BIN)/python -m pytest -q $(PARALLEL) -m 'not faults and not long and not cluster'

shape: $(BIN)/python  ## the largest modules, classes and functions: it shows, and judges nothing
	@$(BIN)/python tools/shape.py r3po

format: $(VENV)/.installed-dev  ## format the code, fix what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

real: $(VENV)/.installed  ## real input: the Unicode CLDR (npm), row by row equal to a plain loop
	@$(BIN)/python benchmarks/real.py cldr

real-synthetic: $(VENV)/.installed  ## 300,000 synthetic files, undisturbed and with three SIGKILLs: equal bytes
	@$(BIN)/python benchmarks/real.py synthetic

real-bucket: $(VENV)/.installed-dev  ## 30,000 objects from a bucket to a bucket, killed and with failing requests: equal bytes
	@$(BIN)/python benchmarks/real_bucket.py

soak: $(VENV)/.installed-dev  ## kill r3po for MINUTES (60), drawn from SEED: every file has one outcome, in equal bytes
	@$(BIN)/python tests/harness/soak.py --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

soak-cluster: $(VENV)/.installed-dev  ## the same over three machines for MINUTES (30), machines and links, too (as root, on Linux)
	@$(BIN)/python tests/harness/soak_cluster.py --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.installed-bench  ## 100,000 files: r3po, the limit and all peers (400,000 inodes)
	@$(BIN)/python benchmarks/bench.py peers

bench-millions: $(VENV)/.installed-bench  ## 1,000,000 and 3,000,000 files (17 GB of disk, 4,100,000 inodes)
	@$(BIN)/python benchmarks/bench.py millions

bench-cold: $(VENV)/.installed-bench  ## 300,000 files, page cache dropped before each run (as root, on Linux)
	@$(BIN)/python benchmarks/bench.py cold

bench-resume: $(VENV)/.installed-bench  ## killed half way and started again, beside Pool, which starts anew
	@$(BIN)/python benchmarks/bench.py resume

bench-scale: $(VENV)/.installed-bench  ## 10,000,000 names (hard links): memory of the driver and the workers
	@$(BIN)/python benchmarks/bench.py scale

bench-workers: $(VENV)/.installed-bench  ## a function that waits for 20 ms, 1 to 64 workers
	@$(BIN)/python benchmarks/bench.py workers

bench-start: $(VENV)/.installed-bench  ## what a user waits for at the least: the sample, --help
	@$(BIN)/python benchmarks/bench.py start

bench-objects: $(VENV)/.installed-bench  ## 100,000 objects of a bucket: listing them, r3po, a bare loop, its peers
	@$(BIN)/python benchmarks/objects.py keys small large

bench-pieces: $(VENV)/.installed-bench  ## the hot pieces one by one, compared with the newest saved baseline
	@$(BIN)/python -m pytest -q -W default benchmarks/pieces.py --benchmark-storage=file://benchmarks/results/pieces \
		--benchmark-compare --benchmark-columns=min,median,iqr,rounds

clean:  ## remove .venv, caches and what the sample left (data/ stays)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	rm -rf sample/working_dir sample/output_dir
	find r3po tests benchmarks sample \( $(SMALL) \) -prune -exec rm -rf {} +

# A stamp is as old as the last installation: pyproject.toml is installed again when it changes, and only then.

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'Installing r3po into $(VENV) ...'
	@$(PIP) install -e '.[pandas]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@echo 'Installing what the tests need ...'
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed
	@echo 'Installing the peers of the benchmarks ...'
	@$(PIP) install -e '.[bench]'
	@$(PIP) install --no-deps --target data/r3po-0.2.0 --upgrade r3po==0.2.0
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'r3po needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
