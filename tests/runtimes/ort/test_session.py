"""Fail closed: a session is refused when a provider did not load or a node runs elsewhere. The GPU is a stand-in."""

from __future__ import annotations

import sys
import types
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
from graph_builder import GraphBuilder
from quantized_graphs import float_layer_between_pairs
from small_bundle import SIZE, small_models, write_bundle
from weight_only import weight_only_layer

import runtimes.inference.load
import runtimes.ort.providers
import runtimes.ort.session
from runtimes import load
from runtimes.errors import InputMismatchError, ProviderUnavailableError, RuntimeAdapterError
from runtimes.machine.environment import GpuDevice, GpuInfo
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.int8_kernels import why_int8_saturates
from runtimes.ort.io_binding import bind_arrays
from runtimes.ort.session import PluginProvider

GPU = GpuInfo((GpuDevice(0, "Stand-in", "8.7", 8192),), "580.0", "13.0", "")
CUDA, CPU, TENSORRT, RTX = (
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("ort-session") / "small", small_models())


class GpuSession:
    """A session that says that it runs on a GPU, but for the nodes in `on_cpu`; the CPU computes."""

    on_cpu: frozenset[str] = frozenset()
    opened: ClassVar[list[dict]] = []

    def __init__(self, source, options, providers=None, provider_options=None, disabled_optimizers=None):
        self.providers = providers or [RTX]
        type(self).opened.append({"providers": providers, "options": provider_options, "session_options": options})
        self.session = REAL_SESSION(source, options, providers=[CPU])

    def get_providers(self):
        return [*self.providers, CPU]

    def get_provider_graph_assignment_info(self):
        return [
            types.SimpleNamespace(
                ep_name=CPU if node.name in self.on_cpu else self.providers[0], get_nodes=lambda node=node: [node]
            )
            for subgraph in self.session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
        ]

    def __getattr__(self, name):
        return getattr(self.session, name)


REAL_SESSION = onnxruntime.InferenceSession


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and an ONNX Runtime whose GPU providers load."""
    sessions = type("Sessions", (GpuSession,), {"opened": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", sessions)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    for module in (runtimes.ort.providers, runtimes.inference.load):
        monkeypatch.setattr(module, "gpu_info", lambda: GPU)
    monkeypatch.setattr(runtimes.ort.providers, "missing_library", lambda name: "")
    return sessions


class TestNodes:
    def test_every_node_is_told(self, bundle, gpu):
        with load(bundle, provider="cuda", precision="fp32") as model:
            told = model.describe()
            assert told.provider == CUDA
            assert set(told.node_providers.values()) == {CUDA}
            assert told.nodes_per_provider == {CUDA: len(told.node_providers)}
        assert gpu.opened[0]["providers"] == [CUDA], "the CPU is not even offered"
        assert gpu.opened[0]["options"] == [{"use_tf32": "0"}]

    def test_one_node_elsewhere_is_refused(self, bundle, gpu):
        gpu.on_cpu = frozenset({"conv"})
        with pytest.raises(ProviderUnavailableError, match=rf"1 of \d+ nodes would run elsewhere: conv on {CPU}; noth"):
            load(bundle, provider="cuda", precision="fp32")

    def test_unless_the_caller_allows_it_which_is_logged(self, bundle, gpu, logged):
        gpu.on_cpu = frozenset({"conv"})
        with load(bundle, provider="cuda", precision="fp32", allow_fallback=True) as model:
            assert model.describe().node_providers["conv"] == CPU
            assert model.describe().nodes_per_provider[CPU] == 1
        assert f"nodes run on {CPU}, not on {CUDA}, as allow_fallback=True permits" in logged.text
        assert gpu.opened[0]["providers"] == [CUDA, CPU]

    def test_an_old_onnx_runtime_is_told_not_to_fall_back(self, bundle, monkeypatch):
        """Without a record of nodes ONNX Runtime itself refuses; here the real one, whose CUDA does not load."""
        monkeypatch.setattr(runtimes.ort.session, "_can_record", lambda: False)
        available = onnxruntime.get_available_providers()
        if CUDA not in available:
            pytest.skip("this ONNX Runtime was built without CUDA")
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU: CUDA loads")
        with pytest.raises(ProviderUnavailableError, match="does not load or leaves nodes to the CPU; nothing was run"):
            OrtRuntime(bundle / "model.onnx", providers=[CUDA])


class TestCuda:
    def test_fp16_is_picked(self, bundle, gpu):
        with load(bundle) as model:
            assert model.describe().precision == "fp16"
            assert model.describe().provider == CUDA

    def test_int8_says_that_it_is_computed_in_float(self, bundle, gpu, logged):
        with load(bundle, provider="cuda", precision="int8") as model:
            assert "computed in float" in model.describe().notes[0]
        assert "computed in float" in logged.text

    def test_options_of_the_caller_win(self, bundle, gpu):
        load(bundle, provider="cuda", precision="fp32", provider_options={"use_tf32": "1", "device_id": "0"}).close()
        assert gpu.opened[0]["options"] == [{"use_tf32": "1", "device_id": "0"}]

    def test_a_gpu_without_a_cuda_build_is_said(self, bundle, gpu, monkeypatch, logged):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        with load(bundle) as model:
            assert model.describe().provider == CPU
        assert "there is a GPU, but the installed ONNX Runtime has no CUDA provider" in logged.text
        with pytest.raises(ProviderUnavailableError, match=r"has no CUDAExecutionProvider.*onnxruntime-gpu"):
            load(bundle, provider="cuda")


class TestTensorRt:
    def test_flags_profile_and_a_cache_of_its_own(self, bundle, gpu):
        folders = []
        for precision in ("int8", "fp16", "fp32"):
            load(bundle, provider="ort-tensorrt", precision=precision).close()
            (options,) = gpu.opened[-1]["options"]
            assert options["trt_int8_enable"] == str(precision == "int8")
            assert options["trt_fp16_enable"] == str(precision != "fp32")
            shapes = [options[f"trt_profile_{word}_shapes"] for word in ("min", "opt", "max")]
            assert shapes == [f"input:{rows}x3x{SIZE}x{SIZE}" for rows in (1, 8, 32)]
            folders.append(options["trt_engine_cache_path"])
        assert len(set(folders)) == 3, "engines of other files must not be taken"

    def test_the_plug_in(self, bundle, gpu, monkeypatch):
        """Registered once, its first device chosen, its options passed on."""
        library = types.SimpleNamespace(get_ep_name=lambda: RTX, get_library_path=lambda: "/lib/rtx.so")
        registered, chosen = [], []
        device = types.SimpleNamespace(ep_name=RTX)
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", library)
        monkeypatch.setattr(
            onnxruntime, "register_execution_provider_library", lambda *words: registered.append(words), raising=False
        )
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [device] * len(registered), raising=False)

        class Options(onnxruntime.SessionOptions):
            def add_provider_for_devices(self, devices, options):
                chosen.append((devices, options))

        monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
        for _ in range(2):
            with load(bundle, provider="ort-tensorrt-rtx") as model:
                assert model.describe().provider == RTX
        assert registered == [(RTX, "/lib/rtx.so")]
        assert chosen[0][0] == [device]
        assert chosen[0][1]["nv_profile_opt_shapes"] == f"input:8x3x{SIZE}x{SIZE}"

    def test_a_plug_in_without_a_device(self, bundle, monkeypatch):
        monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *words: None, raising=False)
        monkeypatch.setattr(onnxruntime, "get_ep_devices", list, raising=False)
        with pytest.raises(ProviderUnavailableError, match="offers no device"):
            OrtRuntime(bundle / "model.onnx", plugin=PluginProvider(RTX, "/lib/rtx.so"))


class DeviceArray:
    """What a GPU library hands over; the address is never followed here."""

    def __init__(self, shape, *, address=4096, strides=None, read_only=False, typestr="<f4"):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (address, read_only),
            "strides": strides,
            "version": 3,
        }


class TestRunInto:
    """Not yet run on a GPU: which addresses are bound is all that is seen here."""

    @pytest.fixture
    def runtime(self, bundle):
        with OrtRuntime(bundle / "model.onnx") as opened:
            yield opened

    @pytest.fixture
    def images(self):
        return np.random.default_rng(1).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)

    def test_the_callers_array_holds_what_run_returns(self, runtime, images):
        logits = np.full((3, 5), np.nan, np.float32)
        runtime.run_into({"input": images}, {"logits": logits})
        assert np.array_equal(logits, runtime.run({"input": images})["logits"])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: np.empty((3, 4), np.float32), r"got float32 \[3, 4\], expected float32 \[N, 5\]"),
            (lambda: np.empty((3, 5), np.float64), "got float64"),
            (lambda: np.empty((3, 10), np.float32)[:, ::2], "gaps or turned axes"),
            (lambda: np.frombuffer(bytes(60), np.float32).reshape(3, 5), "read-only"),
            (lambda: [0.0], "got list"),
            (lambda: DeviceArray((3, 5), read_only=True), "read-only"),
            (lambda: DeviceArray((3, 5), strides=(4, 12)), "gaps or turned axes"),
            (lambda: DeviceArray((3, 5), typestr="<f2"), "got float16"),
        ],
    )
    def test_wrong_outputs_are_refused(self, runtime, images, make, message):
        with pytest.raises(InputMismatchError, match=message):
            runtime.run_into({"input": images}, {"logits": make()})

    def test_another_number_of_rows_is_refused(self, runtime, images):
        guarded = np.full((4, 5), 7, np.float32)
        with pytest.raises(RuntimeAdapterError, match="ONNX Runtime failed"):
            runtime.run_into({"input": images}, {"logits": guarded[:2]})
        assert (guarded == 7).all()

    def test_addresses_on_a_gpu_are_bound_as_they_are(self, runtime):
        bound = []
        binding = types.SimpleNamespace(
            bind_input=lambda *words: bound.append(words), bind_output=lambda *words: bound.append(words)
        )
        session = types.SimpleNamespace(io_binding=lambda: binding)
        arrays = {"input": DeviceArray((2, 3, SIZE, SIZE), address=8192)}, {"logits": DeviceArray((2, 5), address=64)}
        bind_arrays(session, runtime.input_specs, arrays[0], runtime.output_specs, arrays[1])
        assert bound == [
            ("input", "cuda", 0, np.float32, [2, 3, SIZE, SIZE], 8192),
            ("logits", "cuda", 0, np.float32, [2, 5], 64),
        ]


@pytest.mark.parametrize("opset", [13, 18])
def test_a_pad_of_zeros_before_a_pool_is_computed_as_written(opset):
    """Plain sessions before 1.32 make the zeros minus infinity: findings/onnxruntime_pad_into_max_pool.sh."""
    graph = GraphBuilder()
    padded = graph.node("Pad", "pad", "input", graph.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    model = graph.model(graph.node("MaxPool", "pool", padded, kernel_shape=[3, 3]), opset=opset).SerializeToString()
    images = -np.random.default_rng(0).uniform(0.5, 1.0, (1, 2, 8, 8)).astype(np.float32)
    with OrtRuntime(model) as runtime:
        (got,) = runtime.run({"input": images}).values()
    border = np.zeros((8, 8), bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    assert (got[..., border] == 0).all()
    assert (got[..., ~border] < 0).all()
    (plain,) = onnxruntime.InferenceSession(model, providers=[CPU]).run(None, {"input": images})
    assert (plain[..., border] == 0).all() == (runtimes.ort.session._wrong_optimizers() is None)


def test_float_weights_between_integer_layers_stay_float_where_asked():
    """Without being asked, ONNX Runtime quantizes them: findings/onnxruntime_quantizes_float_weights.sh."""
    graph, layer = float_layer_between_pairs()
    model = graph.model(layer, opset=19)
    images = np.random.default_rng(0).uniform(-6, 6, (4, 3, 8, 8)).astype(np.float32)
    expected = np.float32(0.0003) * images.sum(axis=1)
    for asked in (True, False):
        with OrtRuntime(model, keep_float_weights=asked) as runtime:
            got = next(iter(runtime.run({"input": images}).values()))[:, 1]
        assert (np.abs(got - expected).max() < 2e-4) == asked
        assert asked or not got.any()


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_float_inputs_of_integer_weights_stay_float(kind):
    """By default ONNX Runtime rounds them to INT8: findings/onnxruntime_weight_only_quantizes_inputs.sh."""
    model, x, expected = weight_only_layer(kind)
    with OrtRuntime(model) as runtime:
        np.testing.assert_allclose(runtime.run({"input": x})["out"], expected, atol=1e-4)
    if not why_int8_saturates():  # without VNNI, ONNX Runtime may leave them alone
        (plain,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU]).run(None, {"input": x})
        assert np.abs(plain - expected).max() > expected.std()
