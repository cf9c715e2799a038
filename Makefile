# The entry points. Everything is set up on first use: packages by packaging/setup.sh
# (Debian 12, root), Python packages in .venv from requirements.lock.
SHELL  := /bin/bash
PYTHON ?= /usr/bin/python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
ARGS   ?=

.PHONY: help setup venv demo deb deb-reproducible lint-deb test check unit vagrant kernel engine e2e vms kubernetes bench bench-services bench-pods lock format clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: ## install the Debian packages that are missing (root)
	@packaging/setup.sh

venv: setup $(VENV)/.installed ## make .venv with netd, nodeagent and barenode in .venv/bin

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --no-input setuptools wheel 2>&1 | { grep -v -e WARNING -e notice || true; }
	@set -o pipefail; $(BIN)/pip install -q --disable-pip-version-check --no-input --require-hashes --use-pep517 -r requirements.lock 2>&1 \
		| { grep -v -e 'WARNING: Location' || true; }
	@PYTHONWARNINGS=ignore $(BIN)/pip install -q --disable-pip-version-check --no-input --no-deps --no-build-isolation -e . \
		> $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@touch $@

demo: venv ## two hosts: pages over the overlay, and from behind a service
	@$(BIN)/barenode lab demo $(ARGS)

deb: ## build the Debian package into dist/
	@packaging/setup.sh apt-packages-deb.txt
	@packaging/deb.sh

deb-reproducible: ## build it twice, each time differently, and compare
	@packaging/setup.sh apt-packages-deb.txt
	@packaging/reproducible.sh

lint-deb: deb ## ask lintian about the package
	@packaging/lint-deb.sh

test: check lint-deb ## every check and every test
	@echo "unit, vagrant and engine run beside kernel, 12 minutes in all; each shows its output at its end"
	@$(MAKE) --no-print-directory -j2 -O kernel unit vagrant engine
	@$(MAKE) --no-print-directory e2e

check: venv ## types, lint, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: venv ## no root, no network, seconds
	$(PYTEST) tests/hostkit tests/netd tests/nodeagent tests/lab tests/packaging $(ARGS)

vagrant: venv ## the Vagrantfile, its settings and scripts
	$(PYTEST) tests/vagrant $(ARGS)

kernel: venv ## private namespaces, real kernel, real etcd
	$(PYTEST) tests/kernel $(ARGS)

engine: venv ## a real Docker Engine
	$(PYTEST) tests/engine $(ARGS)

e2e: venv kubernetes deb ## whole labs, a real Kubernetes, the package on booted hosts
	$(PYTEST) tests/e2e $(ARGS)

kubernetes: setup ## build Kubernetes from Debian's source, once: 4 to 20 minutes
	@lab/assets/kubernetes.sh kube-apiserver kube-controller-manager kube-scheduler kubectl

vms: venv deb ## the package on emulated machines: about ten minutes, root
	@packaging/setup.sh apt-packages-vms.txt
	@mkdir -p dist/images
	@for image in hyperkube etcd; do $(BIN)/barenode image build $$image -o dist/images/$$image.tar || exit 1; done
	@vagrant/qemu/cluster.sh

bench: venv ## measure against a baseline in the same run
	$(BIN)/python -m bench $(ARGS)

bench-services: venv ## services beside kube-proxy's layout, 1,000 to 10,000 of them
	$(BIN)/python -m bench.services $(ARGS)

bench-pods: venv ## pods beside bare calls to Docker, 1 to 50 of them
	$(BIN)/python -m bench.pods $(ARGS)

lock: ## renew requirements.lock from pyproject.toml
	$(BIN)/pip-compile -q --all-extras --strip-extras --allow-unsafe --generate-hashes \
		--no-emit-find-links --no-emit-index-url --no-emit-options -o requirements.lock pyproject.toml

format: ## rewrite in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
