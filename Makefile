# portable-mps: set-up, main job, tests. Variables a person may set: PYTHON, PORTABLE_MPS_ADAPTER, ARGS.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    := .venv
READY   := $(VENV)/.ready
DEVELOP := $(VENV)/.develop
RUN     := $(VENV)/bin/python

# Whoever calls make here wants our device, also where torch has another accelerator.
export PORTABLE_MPS ?= 1
export PYTHON VENV

.DEFAULT_GOAL := help
.PHONY: help setup demo test validate operators compiled models ecosystem vendors metal numerics lint format bench overhead \
        wheel release docs docs-markdown clean

help:
	@echo "make setup   install the system packages that are missing, make $(VENV), build"
	@echo "make demo    train a network on handwritten digits on the mps device"
	@echo "make test    run the tests (ARGS='-k softmax' selects)"
	@echo "make validate    run the tests under the Khronos validation layer (ARGS='-n 2 tests/ops' selects)"
	@echo "make operators   run torch's operator database, write docs/operators.md (ARGS='--operators fft.*' selects)"
	@echo "make compiled    compare torch.compile with eager: operators, architectures; write docs/compile.md"
	@echo "make models  compare the architectures of transformers, where that is installed, write docs/models.md"
	@echo "make ecosystem   try the libraries that are installed, write docs/ecosystem.md"
	@echo "make vendors     compile the tests' kernels with AMD's and Intel's drivers, write docs/vendors.md (ARGS='--every 16')"
	@echo "make metal       run the tests with every dispatch as Metal's text, compiled for the CPU, write docs/metal.md"
	@echo "make lint    ruff, mypy, clang-format; make format repairs what they can"
	@echo "make numerics    sweep the functions of kernels/lib against mpmath, write docs/numerics.md"
	@echo "make bench   time operators against CUDA (or the CPU), write docs/performance.md (ARGS='--families products')"
	@echo "make overhead    what a small operator costs the host (ARGS='--profile add' shows where, ARGS=--graphs in graphs)"
	@echo "make wheel   build a wheel in dist/, with SPIR-V of the kernels that most programs need (minutes)"
	@echo "make release     build the wheel and the source distribution, try them in a fresh environment, say what to upload"
	@echo "make docs    build the site in build/docs/html, check its links (ARGS=--links asks for external ones, too)"
	@echo "make docs-markdown   the pages of the repository's files as Markdown, in build/docs-markdown"
	@echo "make clean   remove $(VENV) and what was built"

setup: $(READY)

# One stamp for all of it: the script skips what is already done.
$(READY): pyproject.toml setup.py $(wildcard scripts/*.sh) $(wildcard csrc/*)
	scripts/setup.sh
	@touch $@

# And what tests, linters and the documentation need beside.
$(DEVELOP): $(READY)
	scripts/setup.sh develop
	@touch $@

demo: $(READY)
	$(RUN) examples/digits.py $(ARGS)

# Compiled graphs stay in memory for as long as their process, so they have processes of their own. 5: none selected.
test: $(DEVELOP)
	$(RUN) -m pytest -n 2 --ignore=tests/compiled $(ARGS) || [ $$? -eq 5 ]
	$(RUN) -m pytest -n 2 tests/compiled $(ARGS) || [ $$? -eq 5 ]

validate: $(DEVELOP)
	$(RUN) scripts/validate.py $(ARGS)

operators: $(DEVELOP)
	PYTHONPATH=tests $(RUN) -m opinfo --table docs/operators.md $(ARGS)

compiled: $(DEVELOP)
	PYTHONPATH=tests $(RUN) -m compiled --write docs/compile.md $(ARGS)

models: $(DEVELOP)
	PYTHONPATH=tests $(RUN) -m models --write docs/models.md $(ARGS)

ecosystem: $(DEVELOP)
	PYTHONPATH=tests $(RUN) -m ecosystem --write docs/ecosystem.md $(ARGS)

# An hour with all of them: ARGS='--every 6 --older-every 24' takes a part, --sources FOLDER what was collected before.
vendors: $(DEVELOP)
	PYTHONPATH=tests:scripts $(RUN) -m vendors --write docs/vendors.md $(ARGS)

# An hour where nothing is compiled yet; ARGS='tests/ops/test_sort.py --order reversed' selects, and leaves the page alone.
metal: $(DEVELOP)
	PYTHONPATH=tests $(RUN) -m metal --write docs/metal.md $(ARGS)

numerics: $(READY)
	$(RUN) scripts/numerics.py --write docs/numerics.md $(ARGS)

lint: $(DEVELOP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror csrc/*

format: $(DEVELOP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i csrc/*

# The page is of a whole run at full size: where ARGS select or shrink, it is left alone.
bench: $(READY)
	PYTHONPATH=benchmarks $(RUN) -m suite $(if $(ARGS),$(ARGS),--write docs/performance.md)

overhead: $(READY)
	$(RUN) benchmarks/overhead.py $(ARGS)

wheel: $(DEVELOP)
	$(RUN) scripts/ship.py
	$(RUN) -m pip --disable-pip-version-check wheel --no-build-isolation --no-deps --wheel-dir dist .

release: $(DEVELOP)
	scripts/setup.sh release
	$(RUN) scripts/ship.py
	$(RUN) scripts/release.py $(ARGS)

docs: $(DEVELOP)
	$(RUN) docs/build.py $(ARGS)

docs-markdown: $(DEVELOP)
	$(RUN) docs/build.py --markdown $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info portable_mps/_C.* portable_mps/spirv
	find . -name __pycache__ -prune -exec rm -rf {} +
