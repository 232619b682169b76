"""A picture that holds NaN is answered by NaN by every runtime and dialect, its neighbors in a batch are not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import make_tensorrt

from calibration import calibrate, insert_qdq
from calibration.methods.dialect import Dialect
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from runtimes.bundle.manifest import BatchRange
from runtimes.nan_images import with_nan_of
from runtimes.openvino.adapter import OpenVinoRuntime
from runtimes.ort.adapter import OrtRuntime
from runtimes.trt.adapter import TrtRuntime

SIZE = 8


def images(count=3):
    return np.random.default_rng(7).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def network(*, pool="GlobalAveragePool"):
    made = GraphBuilder(channels=3, size=SIZE)
    relu = made.node("Relu", "relu", made.conv("conv", "input", 4))
    if pool != "GlobalAveragePool":
        relu = made.node(pool, "maximum", relu)
    made.gemm("logits", relu, 5, transB=1)
    return made.model("logits", opset=20)


def int8(dialect):
    table = calibrate(network(), [images(32)], open_runtime=OrtRuntime, dialect=dialect)
    return insert_qdq(network(), table).model


MODELS = {
    "float": network,
    "float, global maximum": lambda: network(pool="GlobalMaxPool"),
    "int8 for tensorrt": lambda: int8(Dialect.TENSORRT),
    "int8 for onnxruntime": lambda: int8(Dialect.ONNXRUNTIME),
}


def openvino(model):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")
    return OpenVinoRuntime(model)


RUNTIMES = {
    "onnxruntime": OrtRuntime,
    "onnxruntime, as written": lambda model: OrtRuntime(model, exact_qdq=True),
    "openvino": openvino,
}


@pytest.mark.parametrize("where", [(0, 0, 0), (2, 3, 4), (1, 7, 7)])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("open_runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_one_pixel_is_enough(open_runtime, model, where):
    """INT8 files answered it as confidently as any other picture."""
    given = images()
    with open_runtime(model()) as runtime:
        expected = runtime.run({"input": given})["logits"]
        given[1][where] = np.nan
        logits = runtime.run({"input": given})["logits"]
    assert np.isnan(logits[1]).all()
    assert np.array_equal(logits[[0, 2]], expected[[0, 2]])


def test_an_engine_too(tmp_path, monkeypatch):
    """TensorRT's stand-in runs the file in a plain session, which makes a number of NaN."""
    cuda = CudaStandin()
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3", cuda).module)
    source, plan = tmp_path / "a.onnx", tmp_path / "a.engine"
    source.write_bytes(network(pool="GlobalMaxPool").SerializeToString())
    plan.write_bytes(build_engine(source, options=BuildOptions(batch=BatchRange(1, 2, 2))))
    given = images()
    given[2, 0, 3, 3] = np.nan
    with TrtRuntime(plan, flavor="tensorrt", check_sidecar=False, cuda=cuda) as runtime:
        logits = runtime.run({"input": given})["logits"]
    assert [bool(np.isnan(row).all()) for row in logits] == [False, False, True]


def test_arrays_of_the_caller():
    given, logits = images(), np.zeros((3, 5), np.float32)
    given[0, 0, 0, 0] = np.nan
    with OrtRuntime(int8(Dialect.ONNXRUNTIME)) as runtime:
        runtime.run_into({"input": given}, {"logits": logits})
    assert [bool(np.isnan(row).all()) for row in logits] == [True, False, False]


def test_classes_are_not_touched_and_scores_are():
    given = images(2)
    given[0, 0, 0, 0] = np.nan
    outputs = with_nan_of({"input": given}, {"scores": np.ones((2, 1), np.float16), "indices": np.ones((2, 1), int)})
    assert np.isnan(outputs["scores"]).tolist() == [[True], [False]]
    assert outputs["indices"].tolist() == [[1], [1]]


@pytest.mark.parametrize("open_runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_outputs_without_a_batch(open_runtime):
    """Which image spoils one number for all cannot be told; a scalar has no rows to look for."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0)],
        "scalar",
        [info("x", TensorProto.FLOAT, ["batch", 4])],
        [info("most", TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with open_runtime(model) as runtime:
        assert np.isnan(runtime.run({"x": np.float32([[1, 2, 3, np.nan], [1, 2, 3, 4]])})["most"])
        assert runtime.run({"x": np.float32([[1, 2, 3, 4]])})["most"] == 4
