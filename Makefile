# SPDX-License-Identifier: Apache-2.0
# Cells -> weights -> ONNX file -> parity report -> evaluation. `make help` lists targets and settings.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
# A half-written file must never look finished.
.DELETE_ON_ERROR:

$(if $(filter grouped-target,$(.FEATURES)),,$(error this Makefile needs GNU Make 4.3 or newer, this is $(MAKE_VERSION)))
$(if $(subst <$(realpath .)/$(notdir $(lastword $(MAKEFILE_LIST)))>,,<$(realpath $(lastword $(MAKEFILE_LIST)))>), \
	$(error this Makefile works only in its own folder: run `make -C FOLDER` with that))

# --- settings: make NAME=VALUE; environment variables of these names are not used ---------------
#= PROFILE      tutorial: the chapter's pages and network; photo: pages like photos of newspapers, and their network
PROFILE := tutorial
#= EPOCHS       passes over the training cells (empty: the script's default, as in the next lines)
EPOCHS :=
#= BATCH        cells per step
BATCH :=
#= SEED         of puzzles, weights, order and augmentation
SEED := 0
#= THREADS      threads that share each batch; with another number, other weights (empty: as many as cores, at most 4)
THREADS :=
#= NPROC        processes, each with THREADS threads, that share each batch (empty: one)
NPROC :=
#= TRAIN        puzzles for training
TRAIN :=
#= VAL          puzzles for validation
VAL :=
#= PUZZLES      a file of your own puzzles, one per line (empty: draw them)
PUZZLES :=
#= PHOTO        the photo that `make read` reads
PHOTO :=
#= DATASET      a clone of the public data set wichtounet/sudoku_dataset, for `make real`
DATASET :=
#= REAL         a folder of real boards and photos, for measuring (empty: data/real)
REAL :=
#= MIN_VAL_ACCURACY percent of the validation cells that `make check` requires
MIN_VAL_ACCURACY := $(if $(filter photo,$(PROFILE)),95,99.28)
#= DATA         folder of cells and pages
DATA := $(if $(filter photo,$(PROFILE)),data/photo,data)
#= OUT          folder of weights, ONNX file and reports
OUT := $(if $(filter photo,$(PROFILE)),artifacts/photo,artifacts)
#= MODEL        the network, by its name in digitnet_model.py
MODEL := $(if $(filter photo,$(PROFILE)),digitnetv2,digitnet)
#= VENV         the virtual environment that make fills (VENV=: none, use python3 and its installed packages)
VENV := .venv
#= PYTHON       your own interpreter with its installed packages, instead of a virtual environment
PYTHON := $(if $(VENV),$(VENV)/bin/python,python3)
#= PYTHON3      the Python that makes the virtual environment (empty: python3 or the newest python3.x, if it is 3.11 to 3.14)
PYTHON3 :=
#= TORCH_INDEX  another index for torch besides PyPI, such as https://download.pytorch.org/whl/cpu on x86-64
TORCH_INDEX :=

$(if $(filter tutorial photo,$(PROFILE)),,$(error PROFILE=$(PROFILE) is neither tutorial nor photo))
OWN_MARKS := : ; % \# * ? [ ] | \ $$ ~/
$(foreach name,DATA OUT MODEL PUZZLES VENV,$(if $(word 2,$($(name)))$(strip $(foreach mark,$(OWN_MARKS),$(findstring $(mark),$($(name))))), \
	$(error $(name)=$($(name)) has a space or one of $(OWN_MARKS) in it, which make takes as its own: use a name without)))
$(foreach name,SEED DATA OUT MODEL PYTHON,$(if $($(name)),,$(error $(name)= is empty: name one, or leave it out)))

needs = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $(value $(2)),,$(error make $(1) needs $(2)=$(3))))
$(call needs,read,PHOTO,FILE: the photo to read)
$(call needs,real,DATASET,FOLDER: from git clone https://github.com/wichtounet/sudoku_dataset)
# For the user's own interpreter, nothing is installed.
INSTALLED := $(if $(VENV),$(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.installed))
DEV_INSTALLED := $(if $(INSTALLED),$(VENV)/.installed-dev)
READ_VENV := $(VENV:/=)-read
# Looks for the Python that fits.
ANY_PYTHON = $(shell command -v "$(PYTHON3)" || command -v python3 || echo "$(PYTHON)")

# A virtual environment uses its own packages, the tests use their own plugins; the names of files are never expanded.
unexport CDPATH PYTEST_ADDOPTS PYTEST_PLUGINS PHOTO DATASET
ifneq ($(INSTALLED)$(wildcard $(dir $(PYTHON))../pyvenv.cfg),)
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH
endif

# $(call option,--name,value): the option, or nothing if the value is empty. Any value reaches the script as it is, but
# for ~/ at its start, which not every shell replaces when it is typed.
option = $(if $(2),$(subst $(1) '~/,$(1) ~/',$(1) '$(subst ','\'',$(2))'))
# $(call differs,file,line): the file, or nothing if it holds just this line.
differs = $(if $(subst <$(2)>,,<$(file <$(1))>),$(1))

$(foreach name,DATA OUT,$(if $(shell $(call option,[ -d,$($(name))) ] || $(call option,ls -d,$($(name))) 2> /dev/null), \
	$(error $(name)=$($(name)) is a file, or a link to nothing: mount its disk, or move it away)))
# Without OMP_NUM_THREADS torchrun prints a warning; --threads sets the number.
TORCHRUN = OMP_NUM_THREADS=1 "$(PYTHON)" -m torch.distributed.run --standalone

# --- files ---
# A script, then the modules that it may import.
SHARED     := $(addprefix digitnet_,model.py boards.py data.py onnx.py scores.py cli.py machine.py)
DRAWING    := 02_PrepareData.py $(wildcard pages/*.py) $(addprefix digitnet_,boards.py data.py scores.py cli.py machine.py)
TRAINING   := 03_Training.py digitnet_training.py $(SHARED)
CHECKING   := 04_Parity.py digitnet_parity.py $(wildcard pages/*.py) $(SHARED)
READING    := 05_Evaluate.py digitnet_pictures.py $(wildcard reading/*.py) pages/puzzles.py $(SHARED)
REAL_TABLES := $(shell $(call option,cksum,$(or $(REAL),data/real)/labels.csv) $(call option,,$(or $(REAL),data/real)/photos/photos.csv) 2> /dev/null)
WEIGHTS    := $(OUT)/$(MODEL)_best.pth
ONNX       := $(OUT)/sudoku_digitnet.onnx
PARITY     := $(addprefix $(OUT)/,parity.txt parity.json golden.npz)
EVALUATION := $(addprefix $(OUT)/,evaluation.txt evaluation.json confusion_matrix.png misread_cells.png \
	$(if $(filter %photos.csv,$(REAL_TABLES)),misread_photos.png) $(if $(wildcard $(OUT)/training.json),learning_curve.png))
SUMMARY    := $(OUT)/summary.txt
RESULTS    := $(WEIGHTS) $(ONNX) $(PARITY) $(SUMMARY) $(EVALUATION) $(addprefix $(OUT)/,training.json learning_curve.png misread_photos.png)

# Data that 02_PrepareData.py did not make are used unchanged. A checksum of their names, sizes and dates is a setting.
OWN_DATA := $(if $(wildcard $(DATA)/.made-by-02_PrepareData.py),,$(wildcard $(DATA)/train))
PREPARED := $(if $(OWN_DATA),,$(DATA)/prepared.json)
CELLS    := $(if $(OWN_DATA),$(shell find -L $(foreach part,train val calibration grids,$(call option,,$(DATA)/$(part))) -type f ! -name '.*' \
	-printf '%p %s %T@\n' 2> /dev/null | LC_ALL=C sort | cksum))
# So are weights, alone or with their ONNX file, that were in OUT before make's stamp, which names them.
YOURS    := $(wildcard $(if $(file <$(OUT)/.settings),$(patsubst YOURS=%,$(OUT)/%,$(filter YOURS=%,$(file <$(OUT)/.settings))),$(RESULTS) $(OUT)/*_best.pth))
IN_THE_WAY := $(filter-out $(if $(filter $(WEIGHTS),$(YOURS)),$(WEIGHTS) $(ONNX) $(OUT)/training.json),$(filter $(RESULTS),$(YOURS)))

.PHONY: all data train export parity golden evaluate check read real test test-all lint bench bench-quick smoke doctor clean help FORCE

## all         data, train, export, parity, golden, evaluate, and a summary (the default)
all: $(SUMMARY)
## data        draw puzzles, photograph them, cut the cells
data: $(PREPARED)
## train       train, and keep the best epoch's weights
train: $(WEIGHTS) $(OUT)/.settings
## export      write the ONNX file
export: $(ONNX)
## parity      check that the ONNX file is the same model
parity: $(OUT)/parity.json
## golden      write PyTorch's answers to some inputs, to check the ONNX file on machines without PyTorch
golden: $(OUT)/golden.npz
## evaluate    count and draw the ONNX file's errors: held-out cells, camera pages, real boards and photos
evaluate: $(EVALUATION)

$(DATA)/prepared.json: $(DRAWING) $(wildcard $(PUZZLES)) $(DATA)/.drawing | $(INSTALLED)
	"$(PYTHON)" $< --style $(PROFILE) $(call option,--out,$(DATA)) $(call option,--seed,$(SEED)) $(call option,--train,$(TRAIN)) \
		$(call option,--val,$(VAL)) $(call option,--puzzles,$(PUZZLES))

$(filter-out $(YOURS),$(WEIGHTS)): $(TRAINING) $(PREPARED) $(OUT)/.settings | $(INSTALLED)
	$(or $(call option,$(TORCHRUN) --nproc-per-node,$(NPROC)),"$(PYTHON)") $< $(call option,--data,$(DATA)) $(call option,--out,$(OUT)) \
		$(call option,--model,$(MODEL)) --train-only $(call option,--seed,$(SEED)) \
		$(call option,--epochs,$(EPOCHS)) $(call option,--batch-size,$(BATCH)) $(call option,--threads,$(THREADS))

$(filter-out $(YOURS),$(ONNX)): $(TRAINING) $(WEIGHTS) $(OUT)/.settings | $(INSTALLED)
	"$(PYTHON)" $< $(call option,--out,$(OUT)) $(call option,--model,$(MODEL)) --export-only

$(PARITY) &: $(CHECKING) $(ONNX) $(WEIGHTS) $(PREPARED) $(OUT)/.settings | $(INSTALLED)
	"$(PYTHON)" $< $(call option,--onnx,$(ONNX)) $(call option,--weights,$(WEIGHTS)) $(call option,--data,$(DATA)) \
		$(call option,--write-golden,$(OUT)/golden.npz)

EVALUATE := $(call option,--onnx,$(ONNX)) $(call option,--data,$(DATA)) $(call option,--real,$(REAL)) \
	$(call option,--min-accuracy,$(MIN_VAL_ACCURACY))
$(EVALUATION) &: $(READING) $(OUT)/.evaluation $(OUT)/.settings $(ONNX) $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" $< $(EVALUATE) $(call option,--out,$(OUT))

## check       fail below MIN_VAL_ACCURACY, or if over one camera page in a hundred or any verified photo is misread
check: $(ONNX) $(PREPARED)
	"$(PYTHON)" 05_Evaluate.py $(EVALUATE) $(call option,--out,$(OUT)/.check) --check

## read        read the Sudoku board in PHOTO=FILE; trains nothing, and installs only numpy, onnxruntime and OpenCV
READER := $(if $(INSTALLED),$(if $(wildcard $(INSTALLED)),$(PYTHON),$(READ_VENV)/bin/python),$(PYTHON))
read: | $(if $(INSTALLED),$(READER:bin/python=.installed))
	@"$(READER)" $(call option,06_ReadBoard.py --,$(value PHOTO)) || [ $$? = 3 ]  # 3: read, but in doubt

## real        make data/real, boards and photos for measuring, from a clone of the public data set: make real DATASET=FOLDER
real: | $(INSTALLED)
	"$(PYTHON)" $(call option,tools/real.py,$(value DATASET)) $(call option,--out,$(REAL))

$(SUMMARY): $(PARITY) $(EVALUATION)
	@echo; { $(call option,cat,$(OUT)/parity.txt) $(call option,,$(OUT)/evaluation.txt); \
		$(call option,echo,files: $(WEIGHTS)   $(ONNX)); } | $(call option,tee,$@)

# Settings stamps: remade only when a value differs from the file's, so that `make EPOCHS=12`
# rebuilds the weights and what depends on them, and the same command again does nothing.
DATA_SETTINGS  := PROFILE=$(PROFILE) TRAIN=$(TRAIN) VAL=$(VAL) SEED=$(SEED) PUZZLES=$(PUZZLES)
TRAIN_SETTINGS := $(strip MODEL=$(MODEL) EPOCHS=$(EPOCHS) BATCH=$(BATCH) SEED=$(SEED) THREADS=$(THREADS) NPROC=$(NPROC) DATA=$(DATA) \
	$(addprefix CELLS=,$(CELLS)) $(patsubst $(OUT)/%,YOURS=%,$(YOURS)))
EVALUATION_SETTINGS := MIN_VAL_ACCURACY=$(MIN_VAL_ACCURACY) REAL=$(REAL) $(REAL_TABLES)
$(call differs,$(DATA)/.drawing,$(DATA_SETTINGS)) $(call differs,$(OUT)/.settings,$(TRAIN_SETTINGS)) \
$(call differs,$(OUT)/.evaluation,$(EVALUATION_SETTINGS)): FORCE
write = @$(call option,mkdir -p,$(@D)); $(call option,echo,$(1)) > $(call option,,$@)
$(DATA)/.drawing:
	$(call write,$(DATA_SETTINGS))
$(OUT)/.settings:
	@$(if $(IN_THE_WAY),$(call option,echo make:,$(firstword $(IN_THE_WAY)) is not make's: move it away or name another folder (OUT=)) >&2; exit 1)
	@$(if $(filter $(WEIGHTS),$(YOURS)),$(call option,echo make:,$(WEIGHTS) is not make's: it is used as it is; to train name another folder (OUT=)))
	$(call write,$(TRAIN_SETTINGS))
$(OUT)/.evaluation:
	$(call write,$(EVALUATION_SETTINGS))

# --- environments: tools/venv.py makes, fills and checks them ---
# .installed names the Python that it was made with, which an upgrade of the system may take away or change.
$(foreach folder,$(VENV) $(READ_VENV),$(call differs,$(folder)/.installed,$(realpath $(folder)/bin/python))): FORCE
$(VENV)/.installed: requirements.txt
$(VENV)/.installed-dev: requirements-dev.txt $(INSTALLED)
$(READ_VENV)/.installed: requirements-inference.txt
$(VENV)/.installed $(VENV)/.installed-dev $(READ_VENV)/.installed:
	"$(ANY_PYTHON)" -I $(call option,tools/venv.py,$@) $(filter %.txt,$^) "$(PYTHON3)" $(call option,--extra-index-url,$(TORCH_INDEX))

## test        the tests, offline, in temporary folders
## test-all    the same with 20 kills of each kind instead of 3, and the README's commands that take minutes
test test-all: | $(DEV_INSTALLED)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$(PYTHON)" -m pytest -p xdist -q -n auto --dist worksteal --durations 25 tests \
		$(if $(filter test-all,$@),--kills 20 --slow)

## lint        ruff's checks and format, mypy's types, the workflow file
lint: | $(DEV_INSTALLED)
	"$(PYTHON)" -m ruff check . && "$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -m mypy
	"$(PYTHON)" -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/test.yml

## bench       measure speed: the chapter's way and ours, time to its accuracy, each script, inference, processes
## bench-quick the chapter's way and ours, and inference, in under a minute; rough
bench bench-quick: $(PREPARED) | $(INSTALLED)
	"$(PYTHON)" bench/bench.py $(call option,--data,$(DATA)) $(if $(filter bench-quick,$@),--quick --out build/bench-quick)

## smoke       the whole chain in seconds, on little data, in build/
smoke:
	$(MAKE) all DATA=build/data OUT=build/artifacts TRAIN=6 VAL=3 EPOCHS=1 PUZZLES=

## doctor      check whether this machine can run everything, and print cures; needs nothing installed
# It reports these variables, which the other targets ignore.
doctor: export PYTHONPATH := $(value PYTHONPATH)
doctor: export PYTHONHOME := $(value PYTHONHOME)
doctor:
	@"$(ANY_PYTHON)" -I tools/doctor.py $(if $(INSTALLED),$(call option,--venv,$(VENV)) $(call option,--base,$(PYTHON3)),--python "$(PYTHON)")

## clean       remove artifacts, drawn data and build/ (not the virtual environment, not your own files)
DRAWN := train val train_boards val_boards calibration_boards grids calibration .new.* .old.* prepared.json .drawing .made-by-02_PrepareData.py
clean:
	rm -rf build $(foreach file,$(filter-out $(YOURS),$(RESULTS)) $(wildcard $(OUT)/.*_state.pth) $(addprefix $(OUT)/.,settings evaluation check) \
		$(if $(wildcard $(DATA)/.made-by-02_PrepareData.py),$(wildcard $(addprefix $(DATA)/,$(DRAWN)))),$(call option,,$(file)))
	@$(call option,rmdir,$(OUT)) 2> /dev/null || true

## help        this list
SETTINGS = $(shell sed -n 's/^\#= \([A-Z0-9_]*\) .*/\1/p' Makefile)
help:
	@echo 'Targets:'; sed -n 's/^## /  /p' Makefile
	@echo 'Settings (make NAME=VALUE):'
	@$(foreach name,$(SETTINGS),printf '  %-32s %s\n' $(call option,,$(name)=$(value $(name))) "$$(sed -n 's/^\#= $(name)  *//p' Makefile)";)
