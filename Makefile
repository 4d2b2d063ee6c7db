# On a machine with only Python >= 3.11, `make reproduce` and `make test` set up .venv by themselves, once.
SHELL  := /bin/bash
VENV   ?= .venv
SCALE  ?= smoke
SEEDS  ?= 3
WORKERS ?= 2
# One table per paper, the baselines and the judge; TABLES=--all runs every one.
TABLES ?= classic camrec_overall fmmrec_overall addrl_overall painvrl_overall causal_truth
OUT    ?= _runs
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3,11))' >/dev/null 2>&1 && { command -v $$p; break; }; done)
BIN    := $(abspath $(VENV))/bin
STAMP  := $(VENV)/.installed
# Waiting threads sleep; big blocks of memory are kept and not given back after every step (plain byte counts: "1G" would be read as 1).
RUN    := PATH="$(BIN):$$PATH" OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824

.PHONY: help install reproduce campaign test test-faults readme pages html docs quarto lab bench clean

help:
	@echo 'make reproduce   the main table of every paper on the simulator; prints them and the path of the HTML report'
	@echo '                 (TABLES=--all for every table, SCALE=cpu|paper DATA=folder for real data, SEEDS=5, WORKERS=4, OUT=folder)'
	@echo 'make campaign    search and measure on real data, in the order of results/campaign.csv (LEFT=1 tells what is left)'
	@echo 'make test        the cells of every notebook, then tests/'
	@echo 'make test-faults kills, damage and hostile input, many of each, and counts them: half an hour or so'
	@echo 'make pages       execute every notebook that has changed and save what it shows (FRESH=1 for all, FLAGS="slow" for those cells too)'
	@echo 'make docs        the site, with Quarto, in _docs/    make html    plain pages without Quarto, in _html/'
	@echo 'make lab         JupyterLab in nbs/                  make bench   the speed suite'
	@echo 'make readme      README.md from nbs/index.ipynb      make clean   remove built pages (no run, no environment)'

# The environment: made again only when what it is made from changes.
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "causalmmr needs Python 3.11 or newer and none was found: install one, or name it with 'make PYTHON=/path/to/python3 ...'." >&2; exit 2; }
	@test -x "$(BIN)/python" && "$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear "$(VENV)" || \
	  { echo "$(PYTHON) cannot make a virtual environment: install its venv module (on Debian and Ubuntu the package python3-venv)." >&2; exit 2; }
	@echo "Setting up $(VENV), once: a few minutes and about 2 GB."
	@"$(BIN)/python" -m pip install -qq --constraint constraints.txt --editable '.[dev]' || \
	  { echo "The installation into $(VENV) failed (see pip's message above); run the same command again to go on." >&2; exit 1; }
	@touch "$@"

reproduce: $(STAMP)
	@$(RUN) causalmmr reproduce $(TABLES) --scale $(SCALE) --seeds $(SEEDS) --workers $(WORKERS) --out "$(OUT)" $(if $(DATA),--data "$(DATA)")

# What results/campaign.csv names, in its order; resumes. LEFT=1 only tells what is left and what it costs.
campaign: $(STAMP)
	@$(RUN) causalmmr campaign --workers $(WORKERS) --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(LEFT),--left)

# Two jobs side by side, one thread each. The table notebooks run in `make reproduce`, not here.
test: $(STAMP)
	$(RUN) OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --skip_folder_re '^([_.]|tables$$)'
	$(RUN) OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder tests/

# A short part of these runs in `make test`.
test-faults: $(STAMP)
	$(RUN) OMP_NUM_THREADS=1 FAULTS=many pytest -q tests/faults tests/test_hostile.py

readme: $(STAMP)
	@$(RUN) python -W ignore tests/docs_check.py readme

# Sets are printed in the same order on every machine, and one thread adds in the same order each time.
pages: $(STAMP)
	@$(RUN) OMP_NUM_THREADS=1 PYTHONHASHSEED=0 python -W ignore tests/docs_check.py pages --workers $(WORKERS) $(if $(FRESH),--fresh) --flags '$(FLAGS)'

html: $(STAMP)
	@$(RUN) OMP_NUM_THREADS=1 python -W ignore tests/docs_check.py html _html && echo "Open _html/contents.html"

quarto:
	@command -v quarto >/dev/null || { echo "make docs needs Quarto, which pip cannot install: get it from https://quarto.org (make html builds plain pages without it)." >&2; exit 2; }

# nbdev_docs lets Quarto write README.md in its own manner: ours is made after it.
docs: quarto $(STAMP)
	$(RUN) nbdev_docs --n_workers 0
	@$(RUN) python -W ignore tests/docs_check.py readme

lab: $(STAMP)
	@$(RUN) jupyter lab nbs

bench: $(STAMP)
	@for b in bench bench_scale bench_models bench_camrec bench_fmmrec bench_addrl bench_invrl; do echo "== $$b"; $(RUN) python benchmarks/$$b.py || exit 1; done

clean:
	rm -rf _docs _html _proc _pages.json
