"""OrtRuntime: what it opens, what it refuses, and that only the asked provider runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper

from calibration.calibration_table import CalibrationTable, TensorRange
from calibration.placement import place_qdq
from calibration.qdq import insert_qdq
from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError
from runtimes.ort import OrtRuntime
from runtimes.protocol import TensorSpec

SEED = 20260108
IMAGES = np.random.default_rng(SEED).normal(size=(2, 2, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Without a Relu before the second pair, so that ONNX Runtime has an integer kernel for the first convolution."""
    graph = GraphBuilder()
    return graph.model(graph.node("Relu", "out", graph.conv("conv2", graph.conv("conv1", "input", 16), 16)))


def test_model_proto_bytes_path_and_str_are_accepted(model, tmp_path):
    path = tmp_path / "model é.onnx"
    onnx.save(model, path)
    results = []
    for source in (model, model.SerializeToString(), path, str(path)):
        with OrtRuntime(source) as runtime:
            results.append(runtime.run({"input": IMAGES})["out"])
    assert all(np.array_equal(result, results[0]) for result in results)


def test_outputs_come_in_the_models_order(model):
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.insert(0, helper.make_tensor_value_info("conv1", TensorProto.FLOAT, ["batch", 16, 8, 8]))
    with OrtRuntime(tapped) as runtime:
        assert list(runtime.output_specs) == list(runtime.run({"input": IMAGES})) == ["conv1", "out"]
        assert runtime.output_specs["conv1"] == TensorSpec("float32", (None, 16, 8, 8))


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.INT64, "int64"), (TensorProto.UINT8, "uint8")]
)
def test_element_types(kind, name):
    info = [helper.make_tensor_value_info(end, kind, ["batch", 2]) for end in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", info[:1], info[1:])
    with OrtRuntime(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) as runtime:
        assert runtime.input_specs["x"] == runtime.output_specs["y"] == TensorSpec(name, (None, 2))
        values = np.array([[1, 2]], name)
        assert np.array_equal(runtime.run({"x": values})["y"], values)


class TestRefused:
    @pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x08" * 40, bytes(1000)])
    def test_corrupt_bytes(self, content):
        with pytest.raises(RuntimeAdapterError, match="does not load the model"):
            OrtRuntime(content)

    def test_a_truncated_model(self, model):
        content = model.SerializeToString()
        with pytest.raises(RuntimeAdapterError, match="does not load"):
            OrtRuntime(content[: len(content) // 2])

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(RuntimeAdapterError, match=r"does not load .*gone\.onnx"):
            OrtRuntime(tmp_path / "gone.onnx")

    def test_a_folder(self, tmp_path):
        with pytest.raises(RuntimeAdapterError, match="does not load"):
            OrtRuntime(tmp_path)

    def test_an_opset_of_the_future(self, model):
        future = onnx.ModelProto()
        future.CopyFrom(model)
        future.opset_import[0].version = 999
        with pytest.raises(RuntimeAdapterError, match="does not load"):
            OrtRuntime(future)

    def test_a_graph_that_fails_while_running(self):
        """Not every shape is declared: here 3 rows are to become rows of 2."""
        graph = GraphBuilder()
        graph.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])]
        model = graph.model(graph.node("Reshape", "y", "input", graph.constant("shape", np.array([-1, 2], np.int64))))
        with OrtRuntime(model) as runtime:
            assert runtime.run({"input": np.ones((2, 3), np.float32)})["y"].shape == (3, 2)
            with pytest.raises(RuntimeAdapterError, match="ONNX Runtime failed"):
                runtime.run({"input": np.ones((1, 3), np.float32)})


class TestProviders:
    def test_an_unknown_provider(self, model):
        with pytest.raises(ProviderUnavailableError, match=r"no FancyExecutionProvider; it has .*CPUExecutionProvider"):
            OrtRuntime(model, providers=["FancyExecutionProvider", "CPUExecutionProvider"])

    def test_an_unknown_second_provider(self, model):
        with pytest.raises(ProviderUnavailableError, match="no FancyExecutionProvider"):
            OrtRuntime(model, providers=["CPUExecutionProvider", "FancyExecutionProvider"])

    def test_no_provider(self, model):
        with pytest.raises(ValueError, match="providers: got none"):
            OrtRuntime(model, providers=[])

    @pytest.mark.parametrize("others", [[], ["CPUExecutionProvider"], ["TensorrtExecutionProvider"]])
    def test_cuda_without_a_gpu_is_never_the_cpu(self, model, monkeypatch, others):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU: CUDA loads")
        ran = []
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *arguments: ran.append(arguments))
        with pytest.raises(ProviderUnavailableError, match="CUDAExecutionProvider"):
            OrtRuntime(model, providers=["CUDAExecutionProvider", *others])
        assert ran == []

    @pytest.mark.parametrize("loaded", [["CPUExecutionProvider"], []])
    def test_a_session_that_fell_back_is_refused(self, model, monkeypatch, loaded):
        """As on a machine whose ONNX Runtime has CUDA and whose driver does not: the session opens, on the CPU."""
        names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: loaded)
        with pytest.raises(ProviderUnavailableError, match=r"asked for CUDAExecutionProvider, .* nothing was run"):
            OrtRuntime(model, providers=names)

    def test_the_second_provider_need_not_load(self, model, monkeypatch):
        monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: ["CPUExecutionProvider"])
        available = onnxruntime.get_available_providers()
        with OrtRuntime(model, providers=["CPUExecutionProvider", *available[:1]]) as runtime:
            assert runtime.run({"input": IMAGES})["out"].shape == (2, 16, 8, 8)


@pytest.fixture(scope="module")
def quantized(model):
    kept = TensorRange(4.0, 4.0 / 127, 4.0)
    table = CalibrationTable(dict.fromkeys(place_qdq(model).activations, kept), {"name": "max"}, 1, (), ())
    return insert_qdq(model, table).model


class TestExactQdq:
    def optimised(self, quantized, monkeypatch, tmp_path, *, exact_qdq):
        """Return the operators of the graph that ONNX Runtime really runs."""
        path = tmp_path / f"optimised-{exact_qdq}.onnx"
        original = onnxruntime.InferenceSession

        def saving(source, options, **arguments):
            options.optimized_model_filepath = str(path)
            return original(source, options, **arguments)

        monkeypatch.setattr(onnxruntime, "InferenceSession", saving)
        OrtRuntime(quantized, exact_qdq=exact_qdq).close()
        return [node.op_type for node in onnx.load(path).graph.node]

    def test_keeps_float_convolutions_and_every_pair(self, quantized, monkeypatch, tmp_path):
        ops = self.optimised(quantized, monkeypatch, tmp_path, exact_qdq=True)
        assert not any(op.startswith("QLinear") or "Integer" in op for op in ops)
        assert ops.count("QuantizeLinear") == 2
        assert sum(op in ("Conv", "FusedConv") for op in ops) == 2

    def test_is_off_by_default_and_the_integer_kernels_run(self, quantized, monkeypatch, tmp_path):
        ops = self.optimised(quantized, monkeypatch, tmp_path, exact_qdq=False)
        assert "QLinearConv" in ops

    def test_is_the_arithmetic_of_the_file(self, quantized):
        """The same with every optimisation off, up to the order of float sums."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        expected = session.run(None, {"input": IMAGES})[0]
        with OrtRuntime(quantized, exact_qdq=True) as runtime:
            assert np.allclose(runtime.run({"input": IMAGES})["out"], expected, rtol=0, atol=1e-5)


def test_num_threads_is_passed_on(model, monkeypatch):
    seen = []
    original = onnxruntime.InferenceSession

    def spying(source, options, **arguments):
        seen.append(options.intra_op_num_threads)
        return original(source, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    OrtRuntime(model, num_threads=1).close()
    OrtRuntime(model).close()
    assert seen == [1, 0]
