# `make demo` shows what porter does, `make test` passes its tests, `make figures` prints
# how fast it is. Each makes .venv where there is none.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
VLLM := .venv/.vllm
# Tiny models, where a second thread costs more than it gives.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test vllm figures clean

demo: $(STAMP)
	@mkdir -p demo
	$(BIN)/porter convert opt -o demo/opt.py --report demo/opt.json
	$(BIN)/porter verify demo/opt.py --against hf --json demo/opt.verify.json
	@echo
	@echo "The port is demo/opt.py; what was done and why is in demo/opt.json."

test: $(STAMP) $(VLLM)
	$(BIN)/python -m pytest -n auto --dist loadfile

vllm: $(STAMP) $(VLLM)

figures: $(STAMP)
	@mkdir -p demo
	$(BIN)/python figures/convert.py
	$(BIN)/porter convert llama -o demo/llama.py
	env -u OMP_NUM_THREADS $(BIN)/porter bench demo/llama.py

# torch first and by its exact version: left to choose, pip takes the newest build
# with gigabytes of CUDA libraries. The stamp makes a second run free.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "porter needs Python 3.11 or newer" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# The real vLLM on the CPU, for `--engine vllm`. It is built for the torch that is here.
# Three packages that it brings along are CUDA builds, which break the import of
# transformers beside a torch for CPUs; vLLM runs without them.
$(VLLM): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,vllm]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info
