# A target that needs the environment in .venv installs it first. Later runs of make use the installed environment.
# To use another interpreter: make install PYTHON=python3.13

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# The tests of the no-reference metrics need a part of the extra `iqa`. The whole extra `iqa` would take .6 GB.
IQA := pyiqa timm openai-clip einops ftfy wcwidth
DEMO := demo_dataset

.PHONY: help install demo test faults fuzz lint format bench clean

help:
	@echo "make install   install everything that tests, demo and benchmarks need into $(VENV)"
	@echo "make demo      run all stages offline on photos of installed packages -> $(DEMO)/report/index.html"
	@echo "make test      run the tests, except the exhaustive ones"
	@echo "make faults    kill and disturb every command, fill its disk, and run all exhaustive tests -> benchmarks/results/faults.md"
	@echo "make fuzz      test the decoders with 100,000 mutated files and the archives with 33,000; FUZZ_SEED=1 changes the files"
	@echo "make lint      check format, lint, types and layers"
	@echo "make format    format the code"
	@echo "make bench     measure the degradation, grouping and curation of Likeness and of other projects, on ../shared/data"
	@echo "make clean     remove the demo dataset, caches and build folders (not $(VENV))"

install: $(STAMP)

# pip compiles with one core, and compileall with all cores. Packages contain a few files that do not compile. The tests of
# other packages and the models of transformers are a third of all files, and Python compiles those that are ever imported.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[offline,heic,jxl,raw,review,ray,dev]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --constraint constraints.txt 'basicsr; python_version < "3.13"'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --constraint constraints.txt $(IQA)
	-$(BIN)/python -m compileall -q -j 0 -x '/(tests?|transformers/models)/' $(VENV)/lib > $(VENV)/compile.log
	touch $@

demo: $(STAMP)
	$(BIN)/likeness demo --out $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses logical --dist worksteal -m "not exhaustive"

# Run `make faults` as root: it mounts a small disk and fills the disk. Without root, the tests with a full disk are skipped.
# The tests marked `exhaustive` need no root, and write nothing into the table of the faults.
faults: $(STAMP)
	rm -f faults.jsonl
	code=0; \
	LIKENESS_FAULTS=full LIKENESS_FAULTS_LOG=$(CURDIR)/faults.jsonl $(BIN)/python -m pytest tests/faults -rs || code=$$?; \
	PYTHONPATH=. $(BIN)/python tests/doubles/faults/faults.py faults.jsonl > faults.tmp; mv faults.tmp benchmarks/results/faults.md; \
	$(BIN)/python -m pytest --numprocesses logical --dist worksteal -m exhaustive --ignore tests/faults || code=$$?; \
	exit $$code

fuzz: $(STAMP)
	FUZZ_FILES=$${FUZZ_FILES:-100000} $(BIN)/python -m pytest tests/manifests/pictures/test_fuzz.py
	HYPOTHESIS_PROFILE=free $(BIN)/python -m pytest --numprocesses logical $$(grep --extended-regexp --recursive --files-with-matches "^from hypothesis|FUZZ$$" tests --include="test_*.py")

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[offline,heic,jxl,raw,review,ray,dev,peers]'
	$(BIN)/python benchmarks/degradation_speed.py
	$(BIN)/python benchmarks/grouping_quality.py ../shared/data/photos ../shared/data/people_crops --faces insightface:../shared/data/weights/insightface_small
	$(BIN)/python benchmarks/curation_speed.py ../shared/data/photos --faces insightface:../shared/data/weights/insightface_small

clean:
	rm -rf $(DEMO) faults.jsonl build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
