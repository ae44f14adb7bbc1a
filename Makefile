# `make demo` and `make test` set everything up themselves, in .venv.
PYTHON ?= python3
STACK ?= cpu
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint venv clean

help:
	@echo "make demo     run the whole pipeline on a small corpus and write a report"
	@echo "make test     run the tests               (make test ARGS=\"tests/test_layout.py -v\")"
	@echo "make lint     ruff check, ruff format --check, mypy"
	@echo "make venv     only set up .venv           (the others do it when needed)"
	@echo "make clean    delete caches and build output; .venv and runs/ stay"
	@echo ""
	@echo "PYTHON=python3.12   the Python (3.11 or newer) to make .venv from; now: $(PYTHON)"
	@echo "STACK=gpu           vLLM and torch for NVIDIA GPUs; now: $(STACK)"

demo: venv
	@.venv/bin/active-reading demo $(ARGS)

test: venv
	@.venv/bin/python -m pytest $(ARGS)

lint: venv
	@status=0; \
	.venv/bin/python -m ruff check . || status=1; \
	.venv/bin/python -m ruff format --check . || status=1; \
	.venv/bin/python -m mypy -p active_reading || status=1; \
	exit $$status

venv:
	@PYTHON="$(PYTHON)" bash requirements/install.sh "$(STACK)"

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find augment eval flows prompts train tests -name __pycache__ -type d -prune -exec rm -rf {} +
