# `make demo` shows what porter does; `make test` passes its tests. Both make .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
# Tiny models, where a second thread costs more than it gives.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test clean

demo: $(STAMP)
	@mkdir -p demo
	$(BIN)/porter convert opt -o demo/opt.py --report demo/opt.json
	$(BIN)/porter verify demo/opt.py --against hf --json demo/opt.verify.json
	@echo
	@echo "The port is demo/opt.py; what was done and why is in demo/opt.json."

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

# torch first and by its exact version: left to choose, pip takes the newest build
# with gigabytes of CUDA libraries. The stamp makes a second run free.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "porter needs Python 3.11 or newer" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info
