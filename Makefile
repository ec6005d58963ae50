# One command each. Everything is set up by itself; what is there already is left alone.

PYTHON ?= python3
STATE ?= .state/mesh
DATA ?=
TARGET ?=
TASK ?=
TRAINERS ?=
SLOTS ?= 0

RUN := .venv/bin/python

.PHONY: help setup demo test attacks up down status logs lint protos bench lock
.DEFAULT_GOAL := help

help: ## Show this list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: ## Set up: virtual environment, pinned packages, bubblewrap, Consul.
	@$(PYTHON) deploy/setup.py

demo: setup ## From pictures to a model that answers: DATA=<pictures> TARGET=0.97 TASK=classification|detection
	@$(RUN) -m deploy.demo --data "$(DATA)" --target "$(TARGET)" $(if $(TASK),--task "$(TASK)")

test: setup ## Run the tests: the rooms side by side, then the whole mesh.
	@$(RUN) -m pytest -q -n 2 --dist loadgroup --ignore tests/mesh -m "not attack"
	@$(RUN) -m pytest -q tests/mesh -m "not attack"

attacks: setup ## Run the tests that take long: attacks by size, by number, by time and by shape.
	@$(RUN) -m pytest -q -n 2 --dist loadgroup --ignore tests/mesh -m attack
	@$(RUN) -m pytest -q tests/mesh -m attack

up: setup ## Start the mesh in the background: TRAINERS=north/a,south/b SLOTS=1
	@$(RUN) -m deploy.local up --state "$(STATE)" --trainers "$(TRAINERS)" --slots "$(SLOTS)"

down: setup ## Stop the mesh; its state stays.
	@$(RUN) -m deploy.local down --state "$(STATE)"

# Scripts ask `.venv/bin/python -m deploy.local status --json`, whose exit status tells.
status: setup ## Show the mesh's processes and how to log in.
	@$(RUN) -m deploy.local status --state "$(STATE)" || true

logs: setup ## Print the end of the mesh's logs.
	@$(RUN) -m deploy.local logs --state "$(STATE)"

lint: setup ## Check style, arrows between modules, types, and the contract with breaking changes of it.
	@$(RUN) -m deploy.lint

protos: setup ## Generate the code of the contract anew.
	@$(RUN) -m deploy.protos

bench: ## Measure the figures that the project promises.
	@$(PYTHON) deploy/setup.py bench
	@$(RUN) -m bench

lock: setup ## Resolve the newest packages that pyproject.toml allows into the lock files.
	@$(RUN) -m deploy.lock
