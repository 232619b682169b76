# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: aarch64 demo docs test test-fast test-kernels test-matrix lint benchmark model-table sweep sweep-efforts clean help robustness

help:
	@echo "make demo       export the digits ResNet to FP32, FP16 and INT8 and compare with PyTorch"
	@echo "make test       linters and tests"
	@echo "make test-fast  the tests for every day: without whole runs of the command and the slow tests (CONTRIBUTING.md)"
	@echo "make docs       the documentation site, in site/; warnings are errors"
	@echo "make test-kernels  the numeric tests as other processors would add: OpenBLAS, ATen and oneDNN kernels"
	@echo "make test-matrix  the tests with the lowest and the newest torch, onnx, ONNX Runtime; 40 minutes, 6 GB"
	@echo "make benchmark  calibration beside ONNX Runtime's own, in one run"
	@echo "make model-table  recount exporter/models/model_table.json, which resnet-export models prints"
	@echo "make sweep      export every variant and write docs/variants.md; an hour or more, resumable"
	@echo "make sweep-efforts  quantize every variant at efforts 0, 1, 2 and write docs/variants_efforts.md; likewise"
	@echo "make robustness kill, fill, flood and fuzz it for half an hour; writes docs/robustness.md"
	@echo "make aarch64    what runs on AArch64, under QEMU, from nothing in four minutes; writes docs/jetson.md"
	@echo "make clean      remove .venv and $(DEMO)/"

# pip's progress is kept: the first installation brings PyTorch (about 6 GB with its CUDA libraries).
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make needs Python 3.11 or newer (ONNX Runtime 1.31 does); try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/digits/write_images.py $(DEMO)/digits
	$(BIN)/resnet-export cifar_resnet20 --weights examples/digits/resnet20_digits.safetensors \
	    --int8 --fp16 --calib $(DEMO)/digits/calib --val $(DEMO)/digits/val \
	    $$($(BIN)/python -c 'import importlib.util as i; print("--measure-on openvino" if i.find_spec("openvino") else "")') \
	    --output $(DEMO)/cifar_resnet20-int8 --force

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three processes of one thread each: two cores are busy then, while one waits for a browser, a cluster or a download. Of
# one process, whose libraries use all cores, most of them wait.
# A file stays with one worker, which keeps its fixtures; what all files need is built once (tests/built_once.py).
# Tests that pytest has rewritten once are kept, whatever the shell says of bytecode. Memory comes in large pages, which
# saves processor time; what a user's process takes is measured without (test_constant_memory).
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) --durations 25

test-fast: $(VENV)/.dev
	$(PYTEST) --durations 10 -m "not slow"

# Every processor adds in an order of its own. Kernels of others, as far as this one can run them.
NUMERIC := tests/runtimes/metrics tests/runtimes/verification tests/calibration tests/exporter/passes tests/exporter/tracing

test-kernels: $(VENV)/.dev
	OPENBLAS_CORETYPE=Prescott ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) $(NUMERIC)
	OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(NUMERIC)
	OPENBLAS_CORETYPE=SkylakeX $(PYTEST) $(NUMERIC)

test-matrix:
	$(PYTHON) tests/matrix.py

$(VENV)/.docs: $(VENV)/.demo
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[docs]"
	touch $@

# NO_MKDOCS_2_WARNING: the theme's own notice about a later major version is none about these pages.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: $(VENV)/.dev
	$(BIN)/python benchmarks/calibration.py

model-table: $(VENV)/.dev
	$(BIN)/python -m exporter.models.model_facts

sweep: $(VENV)/.dev
	$(BIN)/python benchmarks/sweep.py

sweep-efforts: $(VENV)/.dev
	$(BIN)/python benchmarks/sweep_efforts.py

robustness: $(VENV)/.dev
	RESNET_EXPORT_LONG_FORMS=1 $(BIN)/python -m pytest tests/e2e/test_constant_memory.py
	$(BIN)/python tests/robustness/run_all.py

# Exit code 77 where QEMU, mmdebstrap or the cross compiler are missing; the reason is printed.
aarch64: $(VENV)/.dev
	$(BIN)/python tests/aarch64/run_all.py --write

clean:
	rm -rf $(VENV) $(DEMO)
