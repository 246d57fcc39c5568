# Every target sets up its own virtual environment first; repeated, that costs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests, and the stages of a study, run side by side.
study test gpu: export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: install demo study test lint docs build teachers server gpu clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.cfg constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "$(PYTHON) is Python %d.%d, and avrt needs 3.11 or newer: make PYTHON=/path/to/python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

study: $(STAMP)
	$(BIN)/avrt study --out study $(if $(QUICK),--quick true)

demo: $(STAMP)
	$(BIN)/avrt demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation's site, in site/; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# sdist and wheel, in dist/. What an earlier build left in build/ would go into the wheel.
build: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

# How the shipped nano teachers were made: each is trained by our own SFT on what it alone can see or hear.
teachers: $(STAMP)
	for sense in visual audio; do \
	  senses=$$(test $$sense = visual && echo vision || echo audio); work=runs/teachers/$$sense; \
	  for split in "train 1000" "val 40"; do set -- $$split; \
	    $(BIN)/avrt shards nano_world --root runs/teachers/clips --out $$work/$$1 --split $$1 --clips $$2 --seed 7 \
	      --redundant 0.3 --traces $$sense || exit 1; done; \
	  $(BIN)/avrt fit --config sft.yaml --config nano/sft.yaml --data.train $$work/train --data.val $$work/val \
	    --data.prompt.senses $$senses --trainer.limit_val_batches 0 --trainer.default_root_dir $$work/run || exit 1; \
	  $(BIN)/avrt export --ckpt_path $$work/run/checkpoints/step-000376.ckpt --dtype float16 \
	    --out runs/teachers/models/$$sense || exit 1; \
	done

# vLLM's CPU build in an environment of its own; then `make test` also runs the tests marked `server`.
server: $(STAMP)
	tests/server/setup.sh .venv-server

# The figures of docs/gpu.md, on a machine with a GPU.
gpu: $(STAMP)
	$(BIN)/python -m pytest -n 0 tests/gpu
	$(BIN)/python benchmarks/gpu.py --out gpu-check

clean:
	rm -rf $(VENV) .venv-server demo study runs gpu-check build dist site *.egg-info
