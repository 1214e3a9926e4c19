# SPDX-License-Identifier: Apache-2.0
# Cells -> weights -> ONNX file -> parity report -> evaluation. `make help` lists targets and settings.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
# A half-written file must never look finished.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

$(if $(filter grouped-target,$(.FEATURES)),,$(error this Makefile needs GNU Make 4.3 or newer, this is $(MAKE_VERSION)))

# --- settings: make NAME=VALUE; environment variables of these names are not used ---------------
# $(call setting,NAME,default): keep NAME, or set it to the default if it is empty.
setting = $(if $($(1)),,$(eval override $(1) := $(2)))
#= PROFILE      tutorial: the tutorial's pages and network; photo: pages like photos of newspapers, and their network
PROFILE :=
$(call setting,PROFILE,tutorial)
#= EPOCHS       passes over the training cells (empty: the script's default, as in the next lines)
EPOCHS  :=
#= BATCH        cells per step
BATCH   :=
#= SEED         of puzzles, weights, order and augmentation
SEED    :=
$(call setting,SEED,0)
#= THREADS      CPU threads of each process (empty: as many as cores, at most 4)
THREADS :=
#= NPROC        processes that share each batch, for many cores (empty: one)
NPROC   :=
#= TRAIN        puzzles for training
TRAIN   :=
#= VAL          puzzles for validation
VAL     :=
#= PUZZLES      a file of your own puzzles, one per line (empty: draw them)
PUZZLES :=
#= PHOTO        the photo that `make read` reads
PHOTO   :=
#= DATASET      a clone of the public data set wichtounet/sudoku_dataset, for `make real`
DATASET :=
#= REAL         a folder of real boards and photos, for measuring (empty: data/real)
REAL    :=
#= MIN_ACCURACY percent of the real boards' cells, digits and boards, and of the photos, that `make check-real` requires
MIN_ACCURACY :=
$(call setting,MIN_ACCURACY,99.9 99.7 95 90)
#= DATA         folder of cells and pages
#= OUT          folder of weights, ONNX file and reports
#= MODEL        the network, by its name in digitnet_model.py
DATA    :=
OUT     :=
MODEL   :=
ifeq ($(PROFILE),tutorial)
$(call setting,DATA,data)
$(call setting,OUT,artifacts)
$(call setting,MODEL,digitnet)
else ifeq ($(PROFILE),photo)
$(call setting,DATA,data/photo)
$(call setting,OUT,artifacts/photo)
$(call setting,MODEL,digitnetv2)
else
$(error PROFILE=$(PROFILE) is neither tutorial nor photo)
endif
#= VENV         the virtual environment that make fills (VENV=: none, use python3 and its installed packages)
VENV    := .venv
#= PYTHON       your own interpreter with its installed packages, instead of a virtual environment
PYTHON  :=
$(call setting,PYTHON,$(if $(VENV),$(VENV)/bin/python,python3))
#= PYTHON3      the Python that makes the virtual environment (empty: python3, else the newest python3.x, if it is 3.11 to 3.14)
PYTHON3 :=
#= TORCH_INDEX  another index for torch besides PyPI, such as https://download.pytorch.org/whl/cpu on x86-64
TORCH_INDEX :=

# A name with a space would be two names to make.
$(foreach name,PROFILE MODEL DATA OUT PHOTO REAL DATASET PUZZLES VENV,$(if $(word 2,$($(name))),$(error $(name)=$($(name)) has a space in it: use a name without)))

# For the user's own interpreter, nothing is installed.
INSTALLED := $(if $(VENV),$(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.installed))
DEV_INSTALLED := $(if $(INSTALLED),$(VENV)/.installed-dev)

# A virtual environment uses its own packages, and the tests use their own plugins.
unexport CDPATH PYTEST_ADDOPTS PYTEST_PLUGINS
ifneq ($(INSTALLED)$(wildcard $(dir $(PYTHON))../pyvenv.cfg),)
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH
endif

# $(call option,--name,value): the option, or nothing if the value is empty.
option = $(if $(2),$(1) $(2))

# Without OMP_NUM_THREADS torchrun prints a warning; --threads sets the number.
TORCHRUN = OMP_NUM_THREADS=1 "$(PYTHON)" -m torch.distributed.run --standalone

# --- files ---
# A script, then the modules that it may import.
SHARED     := $(addprefix digitnet_,model.py data.py onnx.py scores.py cli.py machine.py)
DRAWING    := 02_PrepareData.py $(wildcard pages/*.py) $(addprefix digitnet_,boards.py data.py scores.py cli.py machine.py)
TRAINING   := 03_Training.py digitnet_training.py $(SHARED)
CHECKING   := 04_Parity.py digitnet_parity.py digitnet_boards.py $(wildcard pages/*.py) $(SHARED)
READING    := 05_Evaluate.py digitnet_pictures.py digitnet_boards.py $(wildcard reading/*.py) pages/puzzles.py $(SHARED)
PREPARED   := $(DATA)/prepared.json
LABELS     := $(wildcard $(addprefix $(or $(REAL),data/real)/,labels.csv photos/photos.csv))
WEIGHTS    := $(OUT)/$(MODEL)_best.pth
ONNX       := $(OUT)/sudoku_digitnet.onnx
PARITY     := $(OUT)/parity.json
GOLDEN     := $(OUT)/golden.npz
EVALUATION := $(OUT)/evaluation.json
PICTURES   := $(addprefix $(OUT)/,confusion_matrix.png learning_curve.png misread_cells.png training_cells.png)
SUMMARY    := $(OUT)/summary.txt

# Data that 02_PrepareData.py did not make are used unchanged; make watches their folders.
ifneq ($(wildcard $(DATA)/train),)
ifeq ($(wildcard $(DATA)/.made-by-02_PrepareData.py),)
PREPARED := $(wildcard $(foreach split,train val,$(addprefix $(DATA)/$(split),/. $(addprefix /,0 1 2 3 4 5 6 7 8 9))))
endif
endif

.PHONY: all data train export parity golden evaluate read pretrained real check-real test test-all lint bench bench-quick smoke doctor clean help FORCE

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

## golden    write PyTorch's answers to some inputs, to check the ONNX file on machines without PyTorch
golden: $(GOLDEN)

## evaluate  count and draw the ONNX file's errors: held-out cells, camera pages, real boards and photos
evaluate: $(EVALUATION) $(PICTURES)

$(DATA)/prepared.json: $(DRAWING) $(wildcard $(PUZZLES)) $(DATA)/.settings | $(INSTALLED)
	"$(PYTHON)" $< --style $(PROFILE) --out $(DATA) --seed $(SEED) $(call option,--train,$(TRAIN)) \
		$(call option,--val,$(VAL)) $(call option,--puzzles,$(PUZZLES))

$(WEIGHTS): $(TRAINING) $(PREPARED) $(OUT)/.settings | $(INSTALLED)
	$(if $(NPROC),$(TORCHRUN) --nproc-per-node $(NPROC),"$(PYTHON)") $< --data $(DATA) --out $(OUT) --model $(MODEL) --train-only --seed $(SEED) \
		$(call option,--epochs,$(EPOCHS)) $(call option,--batch-size,$(BATCH)) $(call option,--threads,$(THREADS))

$(ONNX): $(TRAINING) $(WEIGHTS) | $(INSTALLED)
	"$(PYTHON)" $< --out $(OUT) --model $(MODEL) --export-only

$(PARITY) $(GOLDEN) &: $(CHECKING) $(ONNX) $(WEIGHTS) $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" $< --onnx $(ONNX) --weights $(WEIGHTS) --data $(DATA) --write-golden $(GOLDEN)

$(EVALUATION) $(PICTURES) &: $(READING) $(LABELS) $(ONNX) $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" $< --onnx $(ONNX) --data $(DATA) --out $(OUT) $(call option,--real,$(REAL))

## read      read the Sudoku board in PHOTO=FILE; trains nothing, and installs only numpy, onnxruntime and OpenCV
READER := $(if $(INSTALLED),$(if $(wildcard $(INSTALLED)),$(PYTHON),.venv-read/bin/python),$(PYTHON))
read: | $(if $(INSTALLED),$(READER:bin/python=.installed))
	@$(if $(PHOTO),,echo 'make: which photo? make read PHOTO=FILE' >&2; exit 2)
	@"$(READER)" 06_ReadBoard.py $(PHOTO) || [ $$? = 3 ]  # 3: read, but in doubt

## pretrained  renew pretrained/ and its card from artifacts/photo (after make PROFILE=photo)
pretrained: | $(INSTALLED)
	"$(PYTHON)" tools/pretrained.py

## real      make data/real, boards and photos for measuring, from a clone of the public data set: make real DATASET=FOLDER
real: | $(INSTALLED)
	@$(if $(DATASET),,echo 'make: name the clone: git clone https://github.com/wichtounet/sudoku_dataset && make real DATASET=sudoku_dataset' >&2; exit 2)
	"$(PYTHON)" tools/real.py $(DATASET) $(call option,--out,$(REAL))

## check-real fail if the ONNX file reads the real boards of data/real worse than MIN_ACCURACY (meant for PROFILE=photo)
check-real: $(ONNX) $(PREPARED)
	"$(PYTHON)" 05_Evaluate.py --onnx $(ONNX) --data $(DATA) --out $(OUT)/.check-real $(call option,--real,$(REAL)) --min-accuracy $(MIN_ACCURACY)

$(SUMMARY): tools/summarize.py $(PARITY) $(GOLDEN) $(EVALUATION) $(PICTURES)
	@echo; "$(PYTHON)" $< $(PARITY) $(EVALUATION) --weights $(WEIGHTS) --onnx $(ONNX) --out $@

# Settings stamps: remade only when a value differs from the file's, so that `make EPOCHS=12`
# rebuilds the weights and what depends on them, and the same command again does nothing.
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

# Prints a Python's version, if it is supported.
FITS := import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 14) and sys.maxsize > 2**32 and print(*v, sep=".")
BASE = $(shell for python in $(or $(PYTHON3),python3 python3.14 python3.13 python3.12 python3.11); do \
	[ -z "$$("$$python" -Ic 'import ensurepip, venv; $(FITS)' 2> /dev/null)" ] || { echo "$$python"; break; }; done)
# What an environment's Python says must be what .installed says: an upgrade of the system may have taken or changed it.
says = $(shell $(1)/bin/python -Ic '$(FITS)' 2> /dev/null)
fits = $(filter $(call says,$(1)),$(file <$(1)/.installed))
$(foreach venv,$(patsubst %/.installed,%,$(wildcard $(INSTALLED) .venv-read/.installed)),$(if $(call fits,$(venv)),,$(eval $(venv)/.installed: FORCE)))
# Installed is what can be imported.
IMPORTS := import re, sys; from importlib import metadata, util; pins = re.findall(r"^([\w-]+)==", open(sys.argv[1]).read(), re.M); \
	[metadata.version(pin) for pin in pins]; [__import__(name) for name in ["cv2", *pins] if util.find_spec(name)]

# pip's files go to the disk, as in memory they would fill a small Raspberry Pi; the packages go to the environment,
# whatever the reader's own settings of pip say.
PIP = PIP_USER=0 PIP_DRY_RUN=0 PIP_NO_DEPS=0 PIP_REQUIRE_HASHES=0 TMPDIR="$(abspath $(@D))" $(@D)/bin/python -Im pip \
	--python "$(abspath $(@D)/bin/python)" install --target '' --prefix "$(abspath $(@D))" --root / --no-cache-dir --no-compile --disable-pip-version-check

$(VENV)/.installed: requirements.txt
.venv-read/.installed: requirements-inference.txt
$(VENV)/.installed .venv-read/.installed:
	@base='$(BASE)' says='$(call says,$(@D))'; if [ -n "$$says" ] && ! grep -qsvx "$$says" $@; then \
		$(@D)/bin/python -Ic 'import pip' 2> /dev/null || $(@D)/bin/python -Im ensurepip; \
	elif [ -e $(@D) ] && [ ! -e $@ ]; then \
		echo 'make: $(@D) has no Python 3.11 to 3.14 that starts: run `mv $(@D) $(@D).old`, then make' >&2; exit 1; \
	elif [ -z "$$base" ]; then \
		echo 'make: no 64-bit Python 3.11 to 3.14 with venv (Debian: python3-venv) is found: name one with PYTHON3=...' >&2; exit 1; \
	else (set -x; "$$base" -m venv --clear $(@D)); fi
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $(filter %.txt,$^)
	@reason=$$(ORT_DISABLE_TELEMETRY=1 $(@D)/bin/python -Ic '$(IMPORTS)' $(filter %.txt,$^) 2>&1) || { echo "make: what pip installed" \
		"cannot be imported ($${reason##*$$'\n'}): see \`$(@D)/bin/python -m pip config list\`" >&2; exit 1; }
	@sync; $(@D)/bin/python -Ic '$(FITS)' > $@

## test      the tests, offline, in temporary folders
test: | $(DEV_INSTALLED)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$(PYTHON)" -m pytest -p xdist -q -n auto --dist worksteal --durations 25 tests

## test-all  the same with 20 kills of each kind instead of 3, and the README's commands that take minutes
test-all: | $(DEV_INSTALLED)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$(PYTHON)" -m pytest -p xdist -q -n auto --dist worksteal --durations 25 tests --kills 20 --slow

## lint      ruff's checks and format, mypy's types, the workflow file
lint: | $(DEV_INSTALLED)
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -m mypy
	"$(PYTHON)" -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/test.yml
	@grep -qx "    rev: v$$(sed -n 's/^ruff==//p' requirements-dev.txt)" .pre-commit-config.yaml || \
		{ echo 'make: .pre-commit-config.yaml and requirements-dev.txt pin different versions of ruff' >&2; exit 1; }

$(VENV)/.installed-dev: requirements-dev.txt $(INSTALLED)
	$(PIP) -r $<
	@touch $@

## bench     measure speed: the tutorial's way and ours, time to its accuracy, each script, inference, processes
bench: $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" bench/bench.py --data $(DATA)

## bench-quick  the tutorial's way and ours, and inference, in under a minute; rough
bench-quick: $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" bench/bench.py --data $(DATA) --quick --out build/bench-quick

## smoke     the whole chain in seconds, on little data, in build/
smoke:
	$(MAKE) all DATA=build/data OUT=build/artifacts TRAIN=6 VAL=3 EPOCHS=1 PUZZLES=

## doctor    check whether this machine can run everything, and print cures; needs nothing installed
# It reports these variables, which the other targets ignore.
doctor: export PYTHONPATH := $(value PYTHONPATH)
doctor: export PYTHONHOME := $(value PYTHONHOME)
doctor:
	@"$$(command -v python3 || echo "$(PYTHON)")" -I tools/doctor.py --onnx $(ONNX) $(if $(INSTALLED),--venv $(VENV) --base $(or $(BASE),python3),--python "$(PYTHON)")

## clean     remove artifacts, drawn data and build/ (not the virtual environment, not your own files)
clean:
	rm -rf build $(WEIGHTS) $(ONNX) $(PARITY) $(GOLDEN) $(EVALUATION) $(PICTURES) $(SUMMARY) \
		$(addprefix $(OUT)/,misread_photos.png training.json .settings .check-real) $(wildcard $(OUT)/.*_state.pth)
	@rmdir $(OUT) 2> /dev/null || true
	@if [ -e $(DATA)/.made-by-02_PrepareData.py ]; then \
		set -x; rm -rf $(addprefix $(DATA)/,train val calibration grids .new.* .old.* prepared.json .settings .made-by-02_PrepareData.py); fi

## help      this list
SETTINGS = $(shell sed -n 's/^\#= \([A-Z0-9_]*\) .*/\1/p' Makefile)
help:
	@echo 'Targets:'; sed -n 's/^## /  /p' Makefile
	@echo 'Settings (make NAME=VALUE):'
	@$(foreach name,$(SETTINGS),printf '  %-32s %s\n' '$(name)=$($(name))' "$$(sed -n 's/^\#= $(name)  *//p' Makefile)";)
