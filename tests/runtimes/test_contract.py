"""The contract of `runtimes.protocol.Runtime`, on every adapter that can run here, with the same small network.

The TensorRT engine runs on a stand-in of TensorRT 10.3 and of CUDA; GPU providers are not here: they need a GPU.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_builder import GraphBuilder
from onnx import numpy_helper
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import make_tensorrt
from torch import nn

from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from runtimes import load
from runtimes.bundle.manifest import BatchRange
from runtimes.errors import InputMismatchError, ModelClosedError, RuntimeAdapterError
from runtimes.inference.fixed_batch import AnyBatch
from runtimes.inference.model import Model
from runtimes.openvino.adapter import OpenVinoRuntime
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime
from runtimes.trt.adapter import TrtRuntime

SEED = 20260107
CHANNELS, SIZE, CLASSES = 3, 8, 5


def graph() -> GraphBuilder:
    made = GraphBuilder(channels=CHANNELS, size=SIZE)
    made.gemm("logits", made.node("Relu", "relu", made.conv("conv", "input", 4)), CLASSES, transB=1)
    return made


def ort_runtime() -> OrtRuntime:
    return OrtRuntime(graph().model("logits"))


def torch_runtime() -> TorchRuntime:
    """The same network with the same weights."""
    constants = {name: torch.from_numpy(numpy_helper.to_array(t).copy()) for name, t in graph().initializers.items()}
    conv, linear = nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.Linear(4, CLASSES)
    for module, name in ((conv, "conv"), (linear, "logits")):
        module.load_state_dict({"weight": constants[f"{name}.weight"], "bias": constants[f"{name}.bias"]})
    # In place, so that a runtime that hands its caller's memory to the module shows.
    network = nn.Sequential(InPlace(), conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return TorchRuntime(network.eval(), input_size=(SIZE, SIZE))


class InPlace(nn.Module):
    """Changes its input and gives back what it was."""

    def forward(self, x):
        return x.add_(1.0).clone().sub_(1.0)


@contextmanager
def fixed_batch(folder: Path) -> Iterator[AnyBatch]:
    """The same network with a batch of 3 in the file."""
    model = graph().model("logits")
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 3
    with AnyBatch(OrtRuntime(model), 3) as runtime:
        yield runtime


@contextmanager
def loaded(folder: Path) -> Iterator[Model]:
    path = folder / "contract.onnx"
    path.write_bytes(graph().model("logits").SerializeToString())
    with load(path, provider="cpu") as model:
        yield model


def openvino_runtime() -> OpenVinoRuntime:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")
    return OpenVinoRuntime(graph().model("logits"))


@contextmanager
def engine(folder: Path) -> Iterator[TrtRuntime]:
    """Profile 2 to 3: one image is padded, four are split."""
    cuda = CudaStandin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3", cuda).module)
        source, plan = folder / "contract.onnx", folder / "contract.engine"
        source.write_bytes(graph().model("logits").SerializeToString())
        plan.write_bytes(build_engine(source, options=BuildOptions(batch=BatchRange(2, 3, 3))))
        with TrtRuntime(plan, flavor="tensorrt", check_sidecar=False, cuda=cuda) as runtime:
            yield runtime
        cuda.assert_no_leaks()


RUNTIMES = {
    "onnxruntime": lambda folder: ort_runtime(),
    "openvino": lambda folder: openvino_runtime(),
    "pytorch": lambda folder: torch_runtime(),
    "fixed batch": fixed_batch,
    "load": loaded,
    "engine on a stand-in": engine,
}


@pytest.fixture(params=RUNTIMES)
def runtime(request, tmp_path):
    with RUNTIMES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def images():
    return np.random.default_rng(SEED).normal(size=(4, CHANNELS, SIZE, SIZE)).astype(np.float32)


def test_specs(runtime):
    ((name, spec),) = runtime.input_specs.items()
    assert (name, spec.dtype, spec.shape[0], spec.shape[2:]) == ("input", "float32", None, (SIZE, SIZE))
    assert spec.shape[1] in (CHANNELS, None)  # a PyTorch module does not say how many channels it takes
    assert list(runtime.output_specs) == ["logits"]
    assert runtime.output_specs["logits"].dtype == "float32"
    assert runtime.output_specs["logits"].shape[0] is None
    assert len(runtime.output_specs["logits"].shape) == 2


def test_outputs_are_what_the_specs_say(runtime, images):
    outputs = runtime.run({"input": images})
    assert list(outputs) == list(runtime.output_specs)
    assert type(outputs["logits"]) is np.ndarray
    assert outputs["logits"].shape == (4, CLASSES)
    assert runtime.output_specs["logits"].admits(outputs["logits"])


def test_the_runtimes_answer_alike(images):
    with ort_runtime() as first, torch_runtime() as second:
        logits = [opened.run({"input": images})["logits"] for opened in (first, second)]
    assert np.abs(logits[0]).max() > 0.1
    assert np.allclose(*logits, rtol=0, atol=1e-5)


def test_images_do_not_influence_each_other(runtime, images):
    together = runtime.run({"input": images})["logits"]
    alone = np.concatenate([runtime.run({"input": image[np.newaxis]})["logits"] for image in images])
    assert np.allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"images": x}, r"'input' is missing; got \['images'\], expected \['input'\]"),
        (lambda x: {}, "'input' is missing"),
        (lambda x: {"input": x, "extra": x}, "'extra' is not one of the model's"),
        (lambda x: {"input": x.astype(np.float64)}, r"got float64 \[4, 3, 8, 8\], expected float32 \[N, [3N], 8, 8\]"),
        (lambda x: {"input": x.astype(np.float16)}, "got float16"),
        (lambda x: {"input": (x * 255).astype(np.uint8)}, "got uint8"),
        (lambda x: {"input": x[..., :7]}, r"got float32 \[4, 3, 8, 7\]"),
        (lambda x: {"input": x.transpose(0, 2, 3, 1)}, r"got float32 \[4, 8, 8, 3\]"),
        (lambda x: {"input": x[0]}, r"got float32 \[3, 8, 8\]"),
        (lambda x: {"input": x[:0]}, r"got an empty array \[0, 3, 8, 8\]"),
        (lambda x: {"input": x.tolist()}, "got list, expected a NumPy array"),
        (lambda x: {"input": torch.from_numpy(x).double()}, r"got float64 \[4, 3, 8, 8\]"),
        (lambda x: {"input": torch.from_numpy(x).requires_grad_()}, "got Tensor that NumPy cannot read by DLPack"),
        (lambda x: {"input": None}, "got NoneType"),
        (lambda x: x, r"inputs: got ndarray, expected a mapping \{'input': array\}"),
        (lambda x: [x], "inputs: got list, expected a mapping"),
        (lambda x: None, "inputs: got NoneType, expected a mapping"),
        (lambda x: 3, "inputs: got int, expected a mapping"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(runtime, images, change, message):
    with pytest.raises(InputMismatchError, match=message):
        runtime.run(change(images))
    assert runtime.run({"input": images})["logits"].shape == (4, CLASSES), "the runtime still works"


def test_dlpack_in_main_memory_is_read_in_place(runtime, images):
    expected = runtime.run({"input": images})["logits"]
    np.testing.assert_array_equal(runtime.run({"input": torch.from_numpy(images)})["logits"], expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1],
        lambda x: x[..., ::-1],
        lambda x: np.asfortranarray(x),
        lambda x: x.transpose(0, 1, 3, 2),
        lambda x: np.concatenate([x, x])[::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
)
def test_any_layout_in_memory_gives_the_same(runtime, images, view):
    array = view(images)
    expected = runtime.run({"input": np.array(array, order="C")})["logits"]
    assert np.array_equal(runtime.run({"input": array})["logits"], expected)


def test_read_only_inputs_are_fine_and_inputs_are_not_changed(runtime, images, recwarn):
    before = images.copy()
    runtime.run({"input": images})
    assert np.array_equal(images, before)
    images.flags.writeable = False
    runtime.run({"input": images})
    assert len(recwarn) == 0


def test_outputs_are_the_callers_and_not_reused(runtime, images):
    first = runtime.run({"input": images})["logits"]
    kept = first.copy()
    runtime.run({"input": images * 2})
    assert np.array_equal(first, kept), "a second run must not change the first result"
    first[:] = 0
    assert np.array_equal(runtime.run({"input": images})["logits"], kept), "nor the caller a later result"


def test_nan_goes_through(runtime, images):
    """Hiding it would hide a broken preprocessing; parity refuses it."""
    images[1] = np.nan
    logits = runtime.run({"input": images})["logits"]
    assert np.isnan(logits[1]).all()
    assert np.isfinite(logits[0]).all()


def test_use_after_close(runtime, images):
    runtime.close()
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.run({"input": images})
    assert "input" in runtime.input_specs, "messages may still name the inputs"


def test_a_second_close_does_nothing(runtime):
    runtime.close()
    runtime.close()


def test_context_manager_closes(runtime, images):
    with runtime as entered:
        assert entered is runtime
        runtime.run({"input": images})
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.run({"input": images})


def test_context_manager_closes_on_an_error_and_passes_it_on(runtime, images):
    with pytest.raises(ZeroDivisionError), runtime:
        raise ZeroDivisionError
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.run({"input": images})


def test_use_after_close_has_a_type_of_its_own(runtime, images):
    runtime.close()
    with pytest.raises(ModelClosedError):
        runtime.run({"input": images})


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_any_batch(runtime, count):
    batch = np.random.default_rng(count).normal(size=(count, CHANNELS, SIZE, SIZE)).astype(np.float32)
    with ort_runtime() as reference:
        expected = reference.run({"input": batch})["logits"]
    logits = runtime.run({"input": batch})["logits"]
    assert logits.shape == (count, CLASSES)
    assert np.allclose(logits, expected, rtol=0, atol=1e-5)


def test_eight_threads_give_the_bits_that_one_gives(runtime):
    random = np.random.default_rng(SEED)
    batches = [random.normal(size=(1 + place % 4, CHANNELS, SIZE, SIZE)).astype(np.float32) for place in range(40)]
    serial = [runtime.run({"input": batch})["logits"] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda batch: runtime.run({"input": batch})["logits"], batches))
    assert all(np.array_equal(one, other) for one, other in zip(serial, parallel, strict=True))


def test_a_close_while_others_run_harms_nobody(runtime, images):
    """Every call answers rightly or says that the runtime is closed."""
    expected = runtime.run({"input": images})["logits"]
    running, wrong, told = threading.Barrier(5), [], []

    def work():
        running.wait()
        try:
            for _ in range(2000):
                if not np.array_equal(runtime.run({"input": images})["logits"], expected):
                    wrong.append(1)
        except ModelClosedError:
            told.append(1)
        except BaseException as err:  # else it would end the thread unseen
            wrong.append(err)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.wait()
    runtime.close()
    runtime.close()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(told) == 4
