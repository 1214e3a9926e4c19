# Cells -> weights -> ONNX file -> parity report -> evaluation. `make help` lists targets and settings.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
# A half-written file must never look finished.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# --- settings: make NAME=VALUE; an empty one leaves the script its own default (see its --help) ---
# tutorial: the tutorial's pages and network; photo: pages like photos of newspapers, and the network for them.
PROFILE ?= tutorial
# Passes over as many cells as there are, cells a step, seed of everything, CPU threads (of each process).
EPOCHS  ?=
BATCH   ?=
SEED    ?= 0
THREADS ?=
# Processes that share each batch under torchrun, for many cores; empty: one process with THREADS threads.
NPROC   ?=
# Puzzles for training and validation; a file of your own puzzles (empty: they are drawn).
TRAIN   ?=
VAL     ?=
PUZZLES ?=
# A folder of real boards for measuring (empty: data/real).
REAL    ?=
# Folders: cells and pages; weights, ONNX file and reports. The network by its name in digitnet_model.py.
ifeq ($(PROFILE),tutorial)
DATA    ?= data
OUT     ?= artifacts
MODEL   ?= digitnet
else ifeq ($(PROFILE),photo)
DATA    ?= data/photo
OUT     ?= artifacts/photo
MODEL   ?= digitnetv2
else
$(error PROFILE=$(PROFILE) is neither tutorial nor photo)
endif
# Percent of the cells, digits and boards of data/real that must be right.
FLOOR   ?= 99.9 99.7 95
# The virtual environment; VENV= or PYTHON=... uses your own interpreter, with the packages that are there.
VENV    ?= .venv
# An index to look for torch in besides PyPI, such as https://download.pytorch.org/whl/cpu on x86-64.
TORCH_INDEX ?=

# A name with a space would be two names to make.
$(foreach name,PROFILE MODEL DATA OUT REAL PUZZLES VENV,$(if $(word 2,$($(name))),$(error $(name)=$($(name)) has a space in it: use a name without)))

ifeq ($(origin PYTHON),undefined)
PYTHON    := $(if $(VENV),$(VENV)/bin/python,python3)
INSTALLED := $(if $(VENV),$(VENV)/.installed)
else
INSTALLED :=
endif

# $(call option,--name,value): the option, or nothing if the value is empty.
option = $(if $(2),$(1) $(2))

# Its variable keeps torchrun from warning that it sets it; --threads sets the threads.
TORCHRUN = OMP_NUM_THREADS=1 "$(PYTHON)" -m torch.distributed.run

# --- files ---
# Each script with the modules that it may import.
SHARED     := digitnet_data.py digitnet_cli.py
DRAWING    := 02_PrepareData.py $(wildcard pages/*.py) $(SHARED)
TRAINING   := 03_Training.py $(addprefix digitnet_,$(addsuffix .py,learner sampling resume processes scores model onnx)) $(SHARED)
CHECKING   := 04_Parity.py $(addprefix digitnet_,$(addsuffix .py,reference golden scores model onnx)) $(SHARED)
READING    := 05_Evaluate.py digitnet_pictures.py digitnet_scores.py digitnet_onnx.py $(SHARED)
PREPARED   := $(DATA)/prepared.json
LABELS     := $(wildcard $(or $(REAL),data/real)/labels.csv)
WEIGHTS    := $(OUT)/$(MODEL)_best.pth
ONNX       := $(OUT)/sudoku_digitnet.onnx
PARITY     := $(OUT)/parity.json
GOLDEN     := $(OUT)/golden.npz
EVALUATION := $(OUT)/evaluation.json
PICTURES   := $(addprefix $(OUT)/,confusion_matrix.png learning_curve.png misread_cells.png training_cells.png)
# Drawn pages beside real boards, to look at.
SHEET      := $(if $(filter photo,$(PROFILE)),$(OUT)/pages.png)
SUMMARY    := $(OUT)/summary.txt

# Data that 02_PrepareData.py did not make are used as they are: their folders stand for them.
ifneq ($(wildcard $(DATA)/train),)
ifeq ($(wildcard $(DATA)/.made-by-02_PrepareData.py),)
PREPARED := $(wildcard $(DATA)/train $(DATA)/train/* $(DATA)/val $(DATA)/val/*)
endif
endif

.PHONY: all data train export parity golden evaluate check-real test test-all lint bench bench-quick smoke doctor clean help FORCE

## all       everything below, up to a summary (the default)
all: $(SUMMARY)

## data      draw puzzles, photograph them, cut the cells
data: $(PREPARED)

## train     train, and keep the best epoch's weights
train: $(WEIGHTS)

## export    write the ONNX file
export: $(ONNX)

## parity    check that the ONNX file is the same model
parity: $(PARITY)

## golden    write PyTorch's answers to some inputs, to check the ONNX file where there is no PyTorch
golden: $(GOLDEN)

## evaluate  count and draw what the ONNX file reads wrong: held-out cells, camera pages, real boards
evaluate: $(EVALUATION) $(PICTURES) $(SHEET)

$(DATA)/prepared.json: $(DRAWING) $(wildcard $(PUZZLES)) $(DATA)/.settings | $(INSTALLED)
	"$(PYTHON)" $< --style $(PROFILE) --out $(DATA) --seed $(SEED) $(call option,--train,$(TRAIN)) \
		$(call option,--val,$(VAL)) $(call option,--puzzles,$(PUZZLES))

$(WEIGHTS): $(TRAINING) $(PREPARED) $(OUT)/.settings | $(INSTALLED)
	$(if $(NPROC),$(TORCHRUN) --nproc-per-node $(NPROC),"$(PYTHON)") $< --data $(DATA) --out $(OUT) --model $(MODEL) --train-only --seed $(SEED) \
		$(call option,--epochs,$(EPOCHS)) $(call option,--batch-size,$(BATCH)) $(call option,--threads,$(THREADS))

$(ONNX): $(TRAINING) $(WEIGHTS) | $(INSTALLED)
	"$(PYTHON)" $< --out $(OUT) --model $(MODEL) --export-only

$(PARITY) $(GOLDEN) &: $(CHECKING) $(LABELS) $(ONNX) $(WEIGHTS) $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" $< --onnx $(ONNX) --weights $(WEIGHTS) --data $(DATA) $(call option,--real,$(REAL)) --write-golden $(GOLDEN)

$(EVALUATION) $(PICTURES) &: $(READING) $(LABELS) $(ONNX) $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" $< --onnx $(ONNX) --data $(DATA) --out $(OUT) $(call option,--real,$(REAL))

## check-real fail if the ONNX file reads the real boards of data/real worse than FLOOR (meant for PROFILE=photo)
check-real: $(ONNX) $(PREPARED)
	"$(PYTHON)" 05_Evaluate.py --onnx $(ONNX) --data $(DATA) --out $(OUT)/.check-real $(call option,--real,$(REAL)) --floor $(FLOOR)

$(OUT)/pages.png: $(DRAWING) | $(INSTALLED)
	"$(PYTHON)" $< --style photo --seed $(SEED) --sheet $@

$(SUMMARY): $(PARITY) $(GOLDEN) $(EVALUATION) $(PICTURES) $(SHEET)
	@{ sed -n 's/^  "summary": "\(.*\)",$$/\1/p' $(PARITY) $(EVALUATION); echo 'weights: $(WEIGHTS)   ONNX file: $(ONNX)'; } > $@
	@echo; cat $@

# Settings stamps: remade only when a value differs from what the file says, so that `make EPOCHS=12`
# rebuilds the weights and what hangs on them, and the same command again does nothing.
DATA_SETTINGS  := PROFILE=$(PROFILE) TRAIN=$(TRAIN) VAL=$(VAL) SEED=$(SEED) PUZZLES=$(PUZZLES)
TRAIN_SETTINGS := MODEL=$(MODEL) EPOCHS=$(EPOCHS) BATCH=$(BATCH) SEED=$(SEED) THREADS=$(THREADS) NPROC=$(NPROC) DATA=$(DATA)
ifneq ($(file <$(DATA)/.settings),$(DATA_SETTINGS))
$(DATA)/.settings: FORCE
endif
ifneq ($(file <$(OUT)/.settings),$(TRAIN_SETTINGS))
$(OUT)/.settings: FORCE
endif
$(DATA)/.settings:
	@mkdir -p $(@D); echo '$(DATA_SETTINGS)' > $@
$(OUT)/.settings:
	@mkdir -p $(@D); echo '$(TRAIN_SETTINGS)' > $@

# pip's files go to the disk: in memory they would fill a small Raspberry Pi.
PIP = TMPDIR="$$(cd $(VENV) && pwd)" $(VENV)/bin/python -m pip install --no-cache-dir --disable-pip-version-check

$(VENV)/.installed: requirements.txt
	@python3 -c 'import sys; sys.exit(not (sys.version_info >= (3, 11) and sys.maxsize > 2**32))' || \
		{ echo 'make: python3 must be a 64-bit Python 3.11 or newer; or give your own with PYTHON=...' >&2; exit 1; }
	python3 -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $<
	@touch $@

## test      the tests, offline, in temporary folders
test: | $(INSTALLED)
	"$(PYTHON)" -m pytest -q -n 2 --dist loadfile tests

## test-all  the same with 20 kills of each kind instead of 3, and the commands of the README that take minutes
test-all: | $(INSTALLED)
	"$(PYTHON)" -m pytest -q -n 2 --dist loadfile tests --kills 20 --slow

## lint      ruff's checks and format
lint: | $(INSTALLED)
	"$(PYTHON)" -m pip install -q --no-cache-dir --disable-pip-version-check -r requirements-dev.txt
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .

## bench     how fast: the tutorial's way and ours, the steps, 1 to 4 processes, 1 to 4 times the data, fitted to 100 (10 minutes)
bench: $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" bench/bench.py --data $(DATA)

## bench-quick  the tutorial's way and ours, step by step, inference; shorter and rougher (under a minute)
bench-quick: $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" bench/bench.py --data $(DATA) --quick --out build/bench-quick

## smoke     the whole chain in seconds, on little data, in build/
smoke:
	$(MAKE) all DATA=build/data OUT=build/artifacts TRAIN=6 VAL=3 EPOCHS=1 PUZZLES=

## doctor    can this machine run all this? needs nothing installed; says what to do
doctor:
	@"$$(command -v "$(PYTHON)" || echo python3)" tools/doctor.py --onnx $(ONNX) $(if $(INSTALLED),,--own)

## clean     remove what was made: artifacts, drawn data, build/ (not the virtual environment, not your own files)
clean:
	rm -rf build $(WEIGHTS) $(ONNX) $(PARITY) $(GOLDEN) $(EVALUATION) $(PICTURES) $(SHEET) $(SUMMARY) \
		$(addprefix $(OUT)/,training.json .settings .check-real) $(wildcard $(OUT)/*_stopped.pth $(OUT)/.*_state.pth)
	@rmdir $(OUT) 2> /dev/null || true
	@if [ -e $(DATA)/.made-by-02_PrepareData.py ]; then \
		(cd $(DATA) && set -x && rm -rf train val grids .new.* .old.* prepared.json .settings .made-by-02_PrepareData.py); fi

## help      this list
help:
	@sed -n 's/^## /  /p' Makefile
	@echo 'Settings (make NAME=VALUE; an empty one leaves the script its own default, see python3 03_Training.py --help):'
	@echo '  PROFILE=$(PROFILE) MODEL=$(MODEL)'
	@echo '  EPOCHS=$(EPOCHS) BATCH=$(BATCH) SEED=$(SEED) THREADS=$(THREADS) NPROC=$(NPROC) TRAIN=$(TRAIN) VAL=$(VAL) PUZZLES=$(PUZZLES)'
	@echo '  REAL=$(REAL) DATA=$(DATA) OUT=$(OUT) VENV=$(VENV) PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX)'
