"""OrtRuntime: what it opens, what it refuses, and that only the asked provider runs."""

from __future__ import annotations

import platform

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper
from two_pairs import pair_behind_pair

from calibration.methods.dialect import Dialect
from calibration.placement.for_tensorrt import place_qdq
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import PRECISE_OPTION, X86_ARCHITECTURES, why_int8_saturates
from runtimes.ort.plain_session import PlainRuntime
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
    def optimized(self, quantized, monkeypatch, tmp_path, *, exact_qdq):
        """Return the operators of the graph that ONNX Runtime really runs."""
        path = tmp_path / f"optimized-{exact_qdq}.onnx"
        original = onnxruntime.InferenceSession

        def saving(source, options, **arguments):
            options.optimized_model_filepath = str(path)
            return original(source, options, **arguments)

        monkeypatch.setattr(onnxruntime, "InferenceSession", saving)
        OrtRuntime(quantized, exact_qdq=exact_qdq).close()
        return [node.op_type for node in onnx.load(path).graph.node]

    def test_keeps_float_convolutions_and_every_pair(self, quantized, monkeypatch, tmp_path):
        ops = self.optimized(quantized, monkeypatch, tmp_path, exact_qdq=True)
        assert not any(op.startswith("QLinear") or "Integer" in op for op in ops)
        assert ops.count("QuantizeLinear") == 2
        assert sum(op in ("Conv", "FusedConv") for op in ops) == 2

    def test_is_off_by_default_and_the_integer_kernels_run(self, quantized, monkeypatch, tmp_path):
        ops = self.optimized(quantized, monkeypatch, tmp_path, exact_qdq=False)
        assert "QLinearConv" in ops

    def test_is_the_arithmetic_of_the_file(self, quantized):
        """The same with every optimization off, up to the order of float sums."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        expected = session.run(None, {"input": IMAGES})[0]
        with OrtRuntime(quantized, exact_qdq=True) as runtime:
            assert np.allclose(runtime.run({"input": IMAGES})["out"], expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("first", "second"), [(0.25, 0.02), (0.02, 0.25), (0.03, 0.05), (0.02, 0.02)])
    @pytest.mark.parametrize("exact_qdq", [True, False])
    def test_two_pairs_in_a_row_round_twice(self, first, second, exact_qdq):
        """A plain session makes one finer pair of both; the file says what a device computes."""
        model, x, expected = pair_behind_pair(first, second)
        with OrtRuntime(model, exact_qdq=exact_qdq) as runtime:
            assert np.allclose(runtime.run({"input": x})["out"], expected, rtol=0, atol=1e-4)


class TestSaturation:
    """On a CPU without VNNI the default kernels add two products in 16 bits; these tests decide what the CPU is."""

    @pytest.fixture(params=["no VNNI", ""])
    def cpu(self, request, monkeypatch) -> str:
        monkeypatch.setattr("runtimes.ort.adapter.why_int8_saturates", lambda: request.param)
        return request.param

    @pytest.fixture
    def opened(self, monkeypatch) -> list[str]:
        """The precision option of every session that is opened."""
        seen: list[str] = []
        original = onnxruntime.InferenceSession

        def spying(source, options, **arguments):
            try:
                seen.append(options.get_session_config_entry(PRECISE_OPTION[0]))
            except RuntimeError:  # what it raises for an entry that is not there
                seen.append("")
            return original(source, options, **arguments)

        monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
        return seen

    @pytest.fixture
    def extreme(self) -> onnx.ModelProto:
        """One convolution for ONNX Runtime's kernels whose weights and inputs are all as large as can be."""
        graph = GraphBuilder(channels=64)
        weight = graph.constant("w", np.full((16, 64, 1, 1), 1.27, np.float32))
        conv = graph.conv("conv", "input", 16, kernel=1, weight=weight)
        graph.constant("conv.bias", np.zeros(16, np.float32))
        model = graph.model(graph.conv("last", conv, 2, kernel=1))
        ranges = {"input": 1.0, "conv": 2.0**15 / 255}
        table = CalibrationTable(
            {name: TensorRange(255 * step, step, 255 * step, 0, "uint8") for name, step in ranges.items()},
            {"name": "max"},
            1,
            (),
            (),
            dialect=Dialect.ONNXRUNTIME,
        )
        assert set(place(model, Dialect.ONNXRUNTIME).activations) == set(ranges)
        quantized = insert_qdq(model, table).model
        quantized.graph.output.append(helper.make_tensor_value_info("conv.dequantized", TensorProto.FLOAT, None))
        return quantized

    def test_the_slower_exact_kernels_are_asked_for_where_they_are_needed(self, extreme, cpu, opened):
        with OrtRuntime(extreme) as runtime:
            assert not runtime.may_saturate
        assert opened == (["1"] if cpu else [""])

    def test_a_plain_session_asks_for_nothing(self, extreme, cpu, opened):
        PlainRuntime(extreme).close()
        assert opened == [""]

    def test_nothing_saturates_as_written(self, extreme, cpu, opened):
        with OrtRuntime(extreme, exact_qdq=True) as runtime:
            assert not runtime.may_saturate
        assert opened == [""]

    def test_a_file_that_cannot_be_exact_says_so(self, quantized, cpu, opened):
        """A file for TensorRT: its weights share a zero point, which ONNX Runtime's precise mode does not load."""
        if cpu and platform.machine().lower() not in X86_ARCHITECTURES:
            pytest.skip("only an ONNX Runtime for x86 heeds the precise mode, and so refuses the file")
        with OrtRuntime(quantized) as runtime:
            assert runtime.may_saturate == bool(cpu)
            assert runtime.run({"input": IMAGES})["out"].shape == (2, 16, 8, 8)
        assert opened == (["1", ""] if cpu else [""])

    def test_a_file_that_does_not_load_is_an_error_either_way(self, cpu):
        with pytest.raises(RuntimeAdapterError, match="does not load the model"):
            OrtRuntime(b"not onnx at all")

    def test_the_default_runtime_answers_right_on_this_cpu(self, extreme):
        """64 products of 255 * 127, each sum of two beyond 16 bits."""
        images = np.full((1, 64, 8, 8), 255, np.float32)
        with OrtRuntime(extreme) as runtime:
            got = runtime.run({"input": images})["conv.dequantized"]
        assert np.allclose(got, 64 * 255 * 1.27, rtol=0.01)

    @pytest.mark.skipif(not why_int8_saturates(), reason="this CPU has VNNI or is no x86: nothing saturates")
    def test_the_default_kernels_of_this_cpu_do_not(self, extreme):
        images = np.full((1, 64, 8, 8), 255, np.float32)
        with PlainRuntime(extreme) as runtime:
            got = runtime.run({"input": images})["conv.dequantized"]
        assert (got < 0.6 * 64 * 255 * 1.27).all(), "32767 where 64770 belongs"


def test_num_threads_is_passed_on(model, monkeypatch):
    seen = []
    original = onnxruntime.InferenceSession

    def spying(source, options, **arguments):
        seen.append(options.intra_op_num_threads)
        return original(source, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    monkeypatch.setattr(onnxruntime, "SessionOptions", onnxruntime.SessionOptions.__base__)
    OrtRuntime(model, num_threads=1).close()
    OrtRuntime(model).close()
    assert seen == [1, 0]
