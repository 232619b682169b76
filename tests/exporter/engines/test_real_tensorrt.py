"""`build` without `--rtx` on TensorRT's real Python bindings: on a parser and a builder that are there, and on none.

The bindings of 11.4 build with TensorRT-RTX's builder behind them (`standins/nvinfer_shim.c`): real plans, no GPU.
"""

import io
import json
import shutil
import sys
from contextlib import redirect_stdout

import onnx
import pytest
from standins.cuda_standin import CudaStandin
from standins.real_bindings import (
    CACHE,
    PACKAGES,
    BindingsUnavailableError,
    bindings_folder,
    forwarding,
    run_with_bindings,
)
from standins.tensorrt_standin import make_tensorrt

from exporter.passes.float16_qdq import float16_qdq_from_float32
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.engine_layers import BUILD_LOG, CONVOLUTION, layers_from_inspector, layers_to_json
from runtimes.trt.engine_sidecar import load_sidecar

BUILDS = {
    "fp32": ["--fp32"],
    "fp16": ["--fp16"],
    "int8": ["--int8"],
}
PRODUCTS = 10
"""Convolutions and matrix products of the bundle's ResNet-8."""

PROFILES = """
import tensorrt as trt

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass

logger = Logger()
builder = trt.Builder(logger)
config = builder.create_builder_config()
for shapes in [((1, 2), (2, 2), (4, 2)), ((3, 2), (2, 2), (4, 2)), ((-1, 2), (2, 2), (4, 2))]:
    profile = builder.create_optimization_profile()
    try:
        profile.set_shape("input", *shapes)
        print(config.add_optimization_profile(profile))
    except RuntimeError as err:
        print(err)
"""
PROFILE_ANSWERS = ["0", "-1", "Shape provided for min is inconsistent with other shapes."]

RUN = """
import json, sys
from resnet_export.main import main
for words in json.loads(sys.argv[1]):
    if code := main(words):
        sys.exit(code)
"""


@pytest.fixture
def bindings(request):
    try:
        forwarding()
        return bindings_folder(getattr(request, "param", "11.4"), CACHE)
    except BindingsUnavailableError as err:
        pytest.skip(str(err))


@pytest.mark.tensorrt
def test_every_precision_becomes_a_plan_with_a_sidecar(bindings, engine_bundle, tmp_path):
    bundle = shutil.copytree(engine_bundle, tmp_path / "bundle")
    words = [["build", str(bundle), *options, "--json"] for options in BUILDS.values()]
    done = run_with_bindings(bindings, "-c", RUN, json.dumps(words), forward=True)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    reports = _objects(done.stdout)
    for precision, report in zip(BUILDS, reports, strict=True):
        sidecar = load_sidecar(bundle / report["engine"])
        assert (sidecar.facts.flavor, sidecar.facts.tensorrt_version) == ("tensorrt", "11.4.0.106")
        assert sidecar.facts.precision == precision
        assert sidecar.engine_size_bytes > 100_000
        coverage = report["int8_coverage"]
        expected = precision.upper()
        assert coverage["count"] == {expected: PRODUCTS}
        assert f"{PRODUCTS} of {PRODUCTS} convolutions and matrix products read {expected}" in told
        assert coverage["source"] == "build log"
        assert {"conv1", "layer2.0.downsample.0", "fc"} <= coverage["by_name"].keys()


@pytest.mark.tensorrt
def test_int8_with_fp16_around_it(bindings, digits_bundle, tmp_path):
    """Its scales are FP16, which needs opset 19: the bundle above is TensorRT 8's."""
    path = tmp_path / "model.onnx"
    onnx.save_model(float16_qdq_from_float32(onnx.load(digits_bundle / "model.int8.onnx")).model, path)
    script = """
import sys
from pathlib import Path
from exporter.engines.build import build_engine
from runtimes.trt.tensorrt_library import load_library
assert len(build_engine(Path(sys.argv[1]))) > 100_000
print(load_library("tensorrt").log.layer_list)
"""
    done = run_with_bindings(bindings, "-c", script, str(path), forward=True)
    assert done.returncode == 0, done.stderr
    entries = layers_from_log(done.stdout)
    layers = layers_from_inspector(json.dumps(layers_to_json(entries, source=BUILD_LOG, products=None)))
    assert layers.count(CONVOLUTION) == {"INT8": 10}
    assert any(tensor["Datatype"] == "Half" for entry in entries for tensor in entry["Outputs"])


def _objects(text):
    decoder, objects = json.JSONDecoder(), []
    while text := text.strip():
        found, end = decoder.raw_decode(text)
        objects.append(found)
        text = text[end:]
    return objects


@pytest.mark.tensorrt
def test_a_file_that_it_does_not_parse_is_told_in_its_words(bindings, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    script = "import sys; from pathlib import Path; from exporter.engines.build import build_engine; "
    done = run_with_bindings(
        bindings, "-c", script + "build_engine(Path(sys.argv[1]))", str(tmp_path / "model.onnx"), forward=True
    )
    assert "EngineBuildError: tensorrt does not parse" in done.stderr
    assert "Likely cause: the file is no ONNX model" in done.stderr


@pytest.mark.tensorrt
def test_profiles_fail_as_the_stand_ins_do(bindings):
    """A negative size raises; sizes out of order are found when the profile is added."""
    done = run_with_bindings(bindings, "-c", PROFILES, forward=True)
    assert done.stdout.splitlines() == PROFILE_ANSWERS, done.stderr
    standin = make_tensorrt("11.4", CudaStandin())
    played: dict = {"tensorrt": standin.module}
    with redirect_stdout(io.StringIO()) as told, pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", standin.module)
        exec(compile(PROFILES, "profiles", "exec"), played)  # the same lines
    assert told.getvalue().splitlines() == PROFILE_ANSWERS


@pytest.mark.parametrize("bindings", PACKAGES, indirect=True)
def test_tensorrt_that_cannot_start_is_wrong_use_and_no_defect(bindings, digits_bundle):
    """Where CUDA does not start, the library gives the bindings no builder: exit 2, and what to do."""
    done = run_with_bindings(bindings, "-m", "resnet_export", "build", str(digits_bundle), "--int8")
    assert done.returncode == 2, done.stderr
    assert "does not start: " in done.stderr
    assert "build there, or with --rtx, which needs none" in done.stderr
    assert not (digits_bundle / "model.int8.engine").exists()


@pytest.mark.parametrize("bindings", PACKAGES, indirect=True)
def test_objects_of_the_real_bindings_can_be_watched(bindings):
    """Which context holds a profile is known by weak references: every version's objects take them."""
    script = """
import weakref
import tensorrt as trt
class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, message):
        pass
seen = weakref.WeakSet()
logger, other = Logger(), Logger()
seen.update([logger, other])
del other
try:
    trt.Runtime(logger)
except TypeError as err:
    assert str(err) == "pybind11::init(): factory function returned nullptr", err
else:
    raise AssertionError("a runtime without CUDA")
kind = trt.IExecutionContext
print(len(seen), kind.__weakrefoffset__ > 0, kind.__hash__ is object.__hash__)
"""
    done = run_with_bindings(bindings, "-c", script)
    assert done.stdout.split() == ["1", "True", "True"], done.stderr
