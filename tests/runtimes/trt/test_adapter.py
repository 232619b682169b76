"""`TrtRuntime` on stand-ins of four TensorRT versions: what is asked of TensorRT and CUDA, and what is refused.

No GPU computes here, so nothing is proved about speed or about TensorRT's arithmetic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper
from standins.cuda_standin import POISON, CudaMisuse, CudaStandin
from standins.tensorrt_standin import VERSIONS, TensorRtStandin, make_tensorrt

import exporter.engines.build
import runtimes.trt.adapter
import runtimes.trt.compatibility
import runtimes.trt.execution_lane
from calibration import calibrate, insert_qdq
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from exporter.errors import EngineBuildError
from exporter.passes.float16 import float16_from_float32
from runtimes.bundle.manifest import BatchRange
from runtimes.errors import (
    BundleError,
    InputMismatchError,
    MissingDependencyError,
    ProviderUnavailableError,
    RuntimeAdapterError,
)
from runtimes.ort.adapter import OrtRuntime
from runtimes.protocol import TensorSpec
from runtimes.trt.adapter import TrtRuntime
from runtimes.trt.engine_sidecar import EngineFacts, EngineSidecar, sidecar_path

SEED = 20260117
CHANNELS, SIZE, CLASSES = 3, 8, 5
BATCH = BatchRange(2, 3, 4)
HERE = f"{platform.system()} {platform.machine()}"


def float32_model():
    made = GraphBuilder(channels=CHANNELS, size=SIZE)
    made.gemm("logits", made.node("Relu", "relu", made.conv("conv", "input", 4)), CLASSES, transB=1)
    return made.model("logits")


def int8_model():
    model = float32_model()
    return insert_qdq(model, calibrate(model, np.array_split(images(8), 4), open_runtime=OrtRuntime)).model


MODELS = {
    "fp32": float32_model,
    "fp16": lambda: float16_from_float32(float32_model()).model,
    "int8": int8_model,
}


def images(count, seed=SEED):
    return np.random.default_rng(seed).normal(size=(count, CHANNELS, SIZE, SIZE)).astype(np.float32)


def expected(array, model=None):
    with OrtRuntime(model or float32_model(), exact_qdq=True) as reference:
        return reference.run({"input": array})["logits"]


@dataclasses.dataclass
class Machine:
    """A stand-in GPU with a TensorRT, and a folder of engines."""

    standin: TensorRtStandin
    cuda: CudaStandin
    folder: Path
    shares_profile: bool = True
    lean: str = ""
    install: Callable[[], object] = lambda: None

    def build(self, model=None, *, precision="fp32", batch=BATCH, options=None, **facts) -> Path:
        """Build with the project's own builder and write the sidecar; `facts` replace what is true."""
        source = self.folder / f"model.{precision}.onnx"
        source.write_bytes((model or MODELS[precision]()).SerializeToString())
        plan = build_engine(source, options=options or BuildOptions(batch=batch))
        engine = self.folder / f"model.{precision}.engine"
        engine.write_bytes(plan)
        content = {
            "onnx_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "precision": precision,
            "flavor": "tensorrt",
            "tensorrt_version": self.standin.module.__version__,
            "gpu": "Stand-in",
            "compute_capability": self.cuda.capability,
            "cuda": "12.6",
            "system": HERE,
            "jetpack": None,
            "batch": batch,
            "flags": {},
        }
        sidecar = EngineSidecar(
            facts=EngineFacts(**{**content, **facts}),
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            engine_size_bytes=len(plan),
            onnx_file=source.name,
            warnings=(),
            tool={},
            build_seconds=0.0,
            shares_profile=self.shares_profile,
        )
        sidecar_path(engine).write_text(json.dumps(sidecar.to_json()))
        return engine

    def open(self, engine: Path, **options) -> TrtRuntime:
        return TrtRuntime(engine, cuda=self.cuda, **options)


@pytest.fixture
def machine_of(tmp_path, monkeypatch):
    def make(version, **cuda):
        memory = CudaStandin(**cuda)
        standin = make_tensorrt(version, memory)
        monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
        return Machine(standin, memory, tmp_path)

    return make


UNSHARED = "8.6, profile not shared"
"""An engine as other tools build it with TensorRT 8.6."""


@pytest.fixture(params=[*VERSIONS, UNSHARED])
def machine(request, machine_of, monkeypatch):
    """Every version; whatever a test did, nothing may be left allocated."""
    if request.param == UNSHARED:
        monkeypatch.setattr(exporter.engines.build, "_share_profiles", lambda trt, config: None)
    made = machine_of(request.param.split(",")[0])
    made.shares_profile = request.param != UNSHARED
    yield made
    made.cuda.assert_no_leaks()


@pytest.fixture
def machine_10(machine_of):
    made = machine_of("10.3")
    yield made
    made.cuda.assert_no_leaks()


# Values


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("count", [1, BATCH.min, BATCH.max, BATCH.max + 1, 3 * BATCH.max + 2])
def test_any_batch_gives_what_onnx_runtime_gives(machine, count, graphs):
    array = images(count)
    with machine.open(machine.build(), cuda_graphs=graphs) as runtime:
        first = runtime.run({"input": array})["logits"]
        again = runtime.run({"input": array})["logits"]
    assert first.shape == (count, CLASSES)
    assert first.dtype == np.float32
    assert np.abs(first - expected(array)).max() <= 1e-6
    assert np.array_equal(first, again)
    assert set(machine.standin.executions) <= set(range(BATCH.min, BATCH.max + 1))


@pytest.mark.parametrize("precision", MODELS)
def test_every_precision(machine, precision):
    model = MODELS[precision]()
    array = images(4)
    with machine.open(machine.build(model, precision=precision)) as runtime:
        assert runtime.input_specs == {"input": TensorSpec("float32", (None, CHANNELS, SIZE, SIZE))}
        assert runtime.output_specs == {"logits": TensorSpec("float32", (None, CLASSES))}
        logits = runtime.run({"input": array})["logits"]
    # ONNX Runtime sums FP16 in an order that depends on its threads.
    assert np.abs(logits - expected(array, model)).max() <= (2e-3 if precision == "fp16" else 1e-6)


def test_fixed_batch(machine):
    model = float32_model()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 3
    array = images(3)
    with machine.open(machine.build(model)) as runtime:
        assert runtime.input_specs["input"].shape == (3, CHANNELS, SIZE, SIZE)
        assert np.abs(runtime.run({"input": array})["logits"] - expected(array)).max() <= 1e-6
        with pytest.raises(InputMismatchError, match=r"got float32 \[4, 3, 8, 8\], expected float32 \[3, 3, 8, 8\]"):
            runtime.run({"input": images(4)})


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[::-1],
        np.asfortranarray,
        lambda x: x.transpose(0, 1, 3, 2),
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
)
def test_any_layout_in_memory(machine_10, change):
    array = change(images(3))
    with machine_10.open(machine_10.build()) as runtime:
        assert np.abs(runtime.run({"input": array})["logits"] - expected(np.ascontiguousarray(array))).max() <= 1e-6


def test_outputs_are_the_callers(machine):
    with machine.open(machine.build()) as runtime:
        first = runtime.run({"input": images(3)})["logits"]
        kept = first.copy()
        runtime.run({"input": images(3, seed=1)})
        assert np.array_equal(first, kept)
        first[:] = 0
        assert np.array_equal(runtime.run({"input": images(3)})["logits"], kept)
    assert kept.flags.owndata or kept.base.flags.owndata


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_padding_does_not_reach_other_rows(machine_10, value):
    array = images(5)
    array[4] = value
    with machine_10.open(machine_10.build()) as runtime:
        logits = runtime.run({"input": array})["logits"]
    assert np.isfinite(logits[:4]).all()
    assert not np.isfinite(logits[4]).all()


def test_padding_repeats_the_last_row(machine_10):
    """Not what an earlier call left there."""
    with machine_10.open(machine_10.build()) as runtime:
        runtime.run({"input": images(4)})
        array = images(1, seed=1)
        runtime.run({"input": array})
        address = runtime._free[0]._device["input"].address
        padded = machine_10.cuda.device_bytes(address, 2 * array.nbytes).view(np.float32).reshape(2, *array.shape[1:])
        assert np.array_equal(padded, np.concatenate([array, array]))


def test_several_inputs_and_outputs(machine):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("a", "b", "sum", "less")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["less"])]
    model = helper.make_model(
        helper.make_graph(nodes, "two", info[:2], info[2:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    a, b = np.random.default_rng(SEED).normal(size=(2, 7, 4)).astype(np.float32)
    with machine.open(machine.build(model)) as runtime:
        outputs = runtime.run({"b": b, "a": a})
        assert list(outputs) == ["sum", "less"]
        assert np.array_equal(outputs["sum"], a + b)
        assert np.array_equal(outputs["less"], a - b)
        with pytest.raises(InputMismatchError, match=r"different batch sizes: {'a': 7, 'b': 3}"):
            runtime.run({"a": a, "b": b[:3]})


# Inputs that are refused


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"images": images(3)}, r"'input' is missing; got \['images'\]"),
        ({"input": images(3), "more": images(3)}, "'more' is not one of the model's"),
        ({"input": images(3).astype(np.float64)}, r"got float64 \[3, 3, 8, 8\], expected float32 \[N, 3, 8, 8\]"),
        ({"input": images(3)[..., :7]}, r"got float32 \[3, 3, 8, 7\]"),
        ({"input": images(3)[:0]}, "empty array"),
        ({"input": [1.0]}, "got list, expected a NumPy array"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(machine, inputs, message):
    with machine.open(machine.build()) as runtime:
        with pytest.raises(InputMismatchError, match=message):
            runtime.run(inputs)
        assert machine.standin.executions == []
        assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES)


# Threads


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("max_contexts", [1, 2, 5])
def test_threads_get_what_one_thread_gets(machine, max_contexts, graphs):
    arrays = [images(count, seed=count) for count in (1, 2, 3, 4, 5, 9, 4, 2)]
    with machine.open(machine.build(), max_contexts=max_contexts, cuda_graphs=graphs) as runtime:
        serial = [runtime.run({"input": array})["logits"] for array in arrays]

        def work(place):
            return all(
                np.array_equal(runtime.run({"input": arrays[place]})["logits"], serial[place]) for _ in range(20)
            )

        with ThreadPoolExecutor(len(arrays)) as pool:
            assert all(pool.map(work, range(len(arrays))))
        lanes = machine.cuda.calls["create_stream"]
    assert lanes <= max_contexts + (not machine.shares_profile)  # else one more was tried and given back


def test_86_engines_of_other_tools_share_one_context(machine_of, monkeypatch):
    """Without profile sharing a second context has no profile; the calls take turns instead of failing."""
    monkeypatch.setattr(exporter.engines.build, "_share_profiles", lambda trt, config: None)
    machine = machine_of("8.6")
    machine.shares_profile = False  # a sidecar of an older builder, which does not say
    with machine.open(machine.build(), max_contexts=4) as runtime:
        gate = threading.Barrier(4)

        def work(_):
            gate.wait()
            return [runtime.run({"input": images(3)})["logits"] for _ in range(10)]

        with ThreadPoolExecutor(4) as pool:
            results = [result for results in pool.map(work, range(4)) for result in results]
    assert all(np.array_equal(result, results[0]) for result in results)
    machine.cuda.assert_no_leaks()


@pytest.mark.parametrize("version", VERSIONS)
def test_our_engines_contexts_compute_at_the_same_time(machine_of, version):
    """Two calls that are both inside `execute_async_v3`, in every version."""
    machine = machine_of(version)
    both = threading.Barrier(2, timeout=20)
    plain = machine.standin.module.IExecutionContext.execute_async_v3

    def meet(context, stream_handle):
        both.wait()  # fails unless another call gets here meanwhile
        return plain(context, stream_handle)

    machine.standin.module.IExecutionContext.execute_async_v3 = meet
    with machine.open(machine.build(), max_contexts=2) as runtime, ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: runtime.run({"input": images(3)})["logits"], range(2)))
    assert np.array_equal(*results)
    machine.cuda.assert_no_leaks()


def test_close_waits_for_running_calls(machine):
    runtime = machine.open(machine.build())
    entered, go_on = threading.Event(), threading.Event()
    synchronize = machine.cuda.synchronize

    def slow(stream):
        entered.set()
        assert go_on.wait(10)
        synchronize(stream)

    machine.cuda.synchronize = slow
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(runtime.run, {"input": images(3)})
        assert entered.wait(10)
        closing = pool.submit(runtime.close)
        with pytest.raises(TimeoutError):
            closing.result(timeout=0.2)
        with pytest.raises(RuntimeAdapterError, match="closed"):
            runtime.run({"input": images(3)})
        go_on.set()
        assert np.abs(running.result(10)["logits"] - expected(images(3))).max() <= 1e-6
        closing.result(10)
    machine.cuda.assert_no_leaks()


def test_a_call_that_waits_for_a_context_hears_of_close(machine_10):
    runtime = machine_10.open(machine_10.build(), max_contexts=1)
    entered, go_on = threading.Event(), threading.Event()
    synchronize = machine_10.cuda.synchronize

    def slow(stream):
        entered.set()
        assert go_on.wait(10)
        synchronize(stream)

    machine_10.cuda.synchronize = slow
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(runtime.run, {"input": images(3)})
        assert entered.wait(10)
        waiting = pool.submit(runtime.run, {"input": images(3)})
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        closing = pool.submit(runtime.close)
        with pytest.raises(RuntimeAdapterError, match="closed"):
            waiting.result(timeout=120)
        go_on.set()
        running.result(10)
        closing.result(10)


# Graphs


def test_graphs_are_replayed(machine):
    with machine.open(machine.build(), cuda_graphs=True) as runtime:
        for _ in range(5):
            for count in (2, 3, 4):
                array = images(count, seed=count)
                assert np.abs(runtime.run({"input": array})["logits"] - expected(array)).max() <= 1e-6
    if not machine.shares_profile:  # one context at a time: each change of batch captures again
        assert machine.cuda.calls["begin_capture"] == 15
    else:
        assert machine.cuda.calls["begin_capture"] == 3
        assert machine.cuda.calls["launch_graph"] == 12


def test_number_of_graphs_is_limited(machine):
    batch = BatchRange(1, 4, 9)
    with machine.open(machine.build(batch=batch), cuda_graphs=True, max_contexts=1) as runtime:
        for count in (*range(1, 10), 9, 8):
            array = images(count, seed=count)
            assert np.abs(runtime.run({"input": array})["logits"] - expected(array)).max() <= 1e-6
        assert len(machine.cuda.executables) <= 4


def test_moved_buffers_are_captured_again(machine_10):
    with machine_10.open(machine_10.build(), cuda_graphs=True) as runtime:
        before = runtime.run({"input": images(3)})["logits"]
        lane = runtime._free[0]
        for name, buffer in list(lane._device.items()):
            lane._device[name] = type(buffer)(machine_10.cuda, buffer.size)
            buffer.close()
        assert np.array_equal(runtime.run({"input": images(3)})["logits"], before)
        assert machine_10.cuda.calls["begin_capture"] == 2


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "instantiate_graph", "launch_graph"])
def test_graph_calls_that_fail(machine, call):
    with machine.open(machine.build(), cuda_graphs=True) as runtime:
        if call == "launch_graph":
            runtime.run({"input": images(3)})
        machine.cuda.fail_next[call] = "cudaErrorUnknown (unknown error)"
        with pytest.raises(RuntimeAdapterError, match=f"CUDA: {call} failed: cudaErrorUnknown"):
            runtime.run({"input": images(3)})
        assert np.abs(runtime.run({"input": images(3)})["logits"] - expected(images(3))).max() <= 1e-6


# Life


def test_use_after_close(machine):
    runtime = machine.open(machine.build())
    runtime.run({"input": images(3)})
    runtime.close()
    machine.cuda.assert_no_leaks()
    with pytest.raises(RuntimeAdapterError, match="closed; open the engine again"):
        runtime.run({"input": images(3)})
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.run({})
    assert "input" in runtime.input_specs
    runtime.close()


def test_context_manager_closes_on_an_error(machine):
    with pytest.raises(ZeroDivisionError), machine.open(machine.build()):
        raise ZeroDivisionError
    machine.cuda.assert_no_leaks()


def test_layers_are_timed_and_the_engine_stays_usable(machine):
    with machine.open(machine.build(), max_contexts=1) as runtime:
        before = runtime.run({"input": images(3)})["logits"]
        times = runtime.layer_times(batch=3, num_runs=4)
        assert (times.batch, times.num_runs, list(times.layer_ms)[1:]) == (3, 4, ["conv + relu", "logits + relu"])
        executed = len(machine.standin.executions)
        np.testing.assert_array_equal(runtime.run({"input": images(3)})["logits"], before)
        assert machine.standin.profiled_runs == 4, "what comes after is not profiled"
        assert len(machine.standin.executions) == executed + 1
    machine.cuda.assert_no_leaks()


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 5}, {"batch": 3, "num_runs": 0}])
def test_layer_times_outside_the_profile(machine_10, options):
    with machine_10.open(machine_10.build()) as runtime, pytest.raises(ValueError, match="a batch from 2 to 4"):
        runtime.layer_times(**options)


def test_layers_in_graphs_cannot_be_timed(machine_10):
    with machine_10.open(machine_10.build(), cuda_graphs=True) as runtime:
        with pytest.raises(RuntimeAdapterError, match="cuda_graphs=False"):
            runtime.layer_times(batch=3)
        assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES)
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.layer_times(batch=3)


def test_a_forked_child_is_told(machine_10):
    runtime = machine_10.open(machine_10.build())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            runtime.run({"input": images(3)})
            answer = "it ran"
        except RuntimeAdapterError as err:
            answer = str(err)
        runtime.close()
        answer += f"; {len(machine_10.cuda.leaks())} left alone"
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(read, 10_000).decode()
    os.close(read)
    os.close(write)
    assert f"opened in process {os.getpid()} and CUDA does not outlive a fork" in answer
    assert "'spawn'" in answer
    assert answer.endswith(f"; {len(machine_10.cuda.leaks())} left alone"), "what the child frees is the parent's"
    assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES)
    runtime.close()


@pytest.mark.parametrize("options", [{"max_contexts": 0}, {"max_contexts": True}, {"max_contexts": 1.5}])
def test_wrong_options(machine_10, options):
    with pytest.raises(ValueError, match="max_contexts: got"):
        machine_10.open(machine_10.build(), **options)


# Calls that TensorRT or CUDA refuse


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("set_input_shape", "setting input 'input' to"),
        ("set_tensor_address", "setting the address of 'input'"),
        ("execute_async_v3", "executing the engine"),
    ],
)
def test_a_refused_call_is_an_error(machine, method, message):
    with machine.open(machine.build()) as runtime:
        machine.standin.refuse.add(method)
        with pytest.raises(RuntimeAdapterError, match=rf"tensorrt: {message}.* failed: .*{method} was refused"):
            runtime.run({"input": images(3)})
        machine.standin.refuse.clear()
        assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES), "the next call works"


def test_no_context(machine):
    engine = machine.build()
    machine.standin.refuse.add("create_execution_context")
    with pytest.raises(RuntimeAdapterError, match=r"creating an execution context .*enough GPU memory"):
        machine.open(engine)


@pytest.mark.parametrize("call", ["malloc", "malloc_host", "create_stream"])
def test_cuda_fails_while_opening(machine, call):
    engine = machine.build()
    machine.cuda.fail_next[call] = "cudaErrorMemoryAllocation (out of memory)"
    with pytest.raises(RuntimeAdapterError, match=f"CUDA: {call} failed: cudaErrorMemoryAllocation"):
        machine.open(engine)


@pytest.mark.parametrize("call", ["copy_to_device", "copy_to_host", "synchronize"])
def test_cuda_fails_while_running(machine, call):
    with machine.open(machine.build()) as runtime:
        machine.cuda.fail_next[call] = "cudaErrorIllegalAddress (an illegal memory access)"
        with pytest.raises(RuntimeAdapterError, match=f"CUDA: {call} failed: cudaErrorIllegalAddress"):
            runtime.run({"input": images(3)})
        assert machine.cuda.streams == {}, "what the failed call computed in is not used again"
        assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES)


def test_too_little_memory(machine_of):
    machine = machine_of("10.3", memory_bytes=1000)
    with pytest.raises(RuntimeAdapterError, match=r"cudaMalloc of 3072 bytes failed: cudaErrorMemoryAllocation"):
        machine.open(machine.build())
    machine.cuda.assert_no_leaks()


def test_no_gpu(machine_10):
    engine = machine_10.build()
    machine_10.cuda.devices = 0
    with pytest.raises(ProviderUnavailableError, match="needs an NVIDIA GPU; CUDA finds none"):
        machine_10.open(engine)


def test_no_tensorrt(machine_10, monkeypatch):
    engine = machine_10.build()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "resnet-export\[tensorrt\]"'):
        machine_10.open(engine)


# Engines that are refused


def test_missing_file(machine_10):
    with pytest.raises(RuntimeAdapterError, match=r"cannot be read \(No such file.*resnet-export build .* --int8"):
        machine_10.open(machine_10.folder / "model.int8.engine")


def test_folder(machine_10):
    with pytest.raises(RuntimeAdapterError, match=r"cannot be read \(Is a directory"):
        machine_10.open(machine_10.folder)


def test_empty_file(machine_10):
    path = machine_10.folder / "model.engine"
    path.touch()
    with pytest.raises(RuntimeAdapterError, match="got an empty file, expected a TensorRT engine"):
        machine_10.open(path)


@pytest.mark.parametrize("part", [1.0, 0.5])
@pytest.mark.parametrize("precision", MODELS)
def test_onnx_file_by_its_content(machine_10, monkeypatch, precision, part):
    content = MODELS[precision]().SerializeToString()
    path = machine_10.folder / "model.engine"
    path.write_bytes(content[: int(part * len(content))])
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not needed for that
    with pytest.raises(RuntimeAdapterError, match="got an ONNX model, expected a TensorRT engine"):
        machine_10.open(path)
    with pytest.raises(RuntimeAdapterError, match="got an ONNX model, expected a TensorRT engine"):
        machine_10.open(path, check_sidecar=False)


@pytest.mark.parametrize("head", [b"ftrt\0\0\0\0", b"vtrt\0\0\0\0\2", b"\0" * 64, b"\xff" * 64, b"\x08", b"\x08\x08"])
def test_what_is_no_onnx_file_is_not_called_one(head):
    assert not runtimes.trt.compatibility.looks_like_onnx(head)


def test_missing_sidecar(machine_10):
    engine = machine_10.build()
    sidecar_path(engine).unlink()
    with pytest.raises(
        BundleError, match=r"engine\.json cannot be read .*resnet-export build .* --fp32.*check_sidecar"
    ):
        machine_10.open(engine)
    with machine_10.open(engine, check_sidecar=False) as runtime:
        assert runtime.run({"input": images(3)})["logits"].shape == (3, CLASSES)


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_damaged_plan(machine, monkeypatch, damage):
    engine = machine.build()
    engine.write_bytes(damage(engine.read_bytes()))
    with pytest.raises(RuntimeAdapterError, match=r"does not load .*Serialization assertion.*damaged .*build it here"):
        machine.open(engine, check_sidecar=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # the sidecar tells it before TensorRT is imported
    with pytest.raises(BundleError, match=r"changed since it was built: got \d+ bytes, SHA-256 .*expected \d+ bytes"):
        machine.open(engine)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tensorrt_version": "9.9.9"}, r"got an engine of tensorrt 9\.9\.9, expected [\d.]+, which is installed here"),
        ({"flags": {"strip_weights": True}}, "got an engine without weights, which an older resnet-export could build"),
        ({"compute_capability": "7.2"}, r"compute capability 7\.2 \(Stand-in\), expected 8\.7, this GPU's"),
        ({"system": "Linux riscv64"}, rf"got an engine for Linux riscv64, this machine is {HERE}"),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engine_for_another_machine(machine, facts, message, precision):
    engine = machine.build(precision=precision, **facts)
    with pytest.raises(BundleError, match=message) as caught:
        machine.open(engine)
    assert f"resnet-export build {engine.parent} --{precision}" in str(caught.value)
    with machine.open(engine, check_sidecar=False) as runtime:
        runtime.run({"input": images(3)})


def test_engine_of_another_flavor(machine_10, monkeypatch):
    with pytest.raises(BundleError, match="asked to open it with 'rtx', it was built with 'tensorrt'"):
        machine_10.open(machine_10.build(), flavor="rtx")
    with pytest.raises(ValueError, match="flavor: got 'cuda'"):
        machine_10.open(machine_10.build(), flavor="cuda", check_sidecar=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="tensorrt_rtx is needed"):
        machine_10.open(machine_10.build(flavor="rtx"))


@pytest.mark.parametrize(
    "facts",
    [
        {"compute_capability": None},
        {"compute_capability": "8.0", "flags": {"hardware_compat": "ampere-plus"}},
        {"tensorrt_version": "10.0.1", "flags": {"version_compat": True}},
        {"gpu": "Another", "cuda": "13.0", "jetpack": "6.2"},
    ],
)
def test_engines_that_are_wider_than_one_machine(machine_10, facts):
    with machine_10.open(machine_10.build(**facts)) as runtime:
        runtime.run({"input": images(3)})


@pytest.mark.parametrize(("built", "opened"), [("8.6", "10.3"), ("10.3", "10.13"), ("10.13", "11.4"), ("11.4", "8.6")])
def test_plan_of_another_version(machine_of, built, opened):
    """Without a sidecar TensorRT's own words are all there is."""
    base = [VERSIONS[version].removesuffix(".post1") for version in (built, opened)]
    engine = machine_of(built).build()
    machine = machine_of(opened)
    with pytest.raises(RuntimeAdapterError, match=r"does not load .*not compatible with this version of TensorRT"):
        machine.open(engine, check_sidecar=False)
    with pytest.raises(BundleError, match=f"got an engine of tensorrt {base[0]}, expected {base[1]}"):
        machine.open(engine)


@pytest.mark.parametrize("spelled", ["10.13.3.9", "10.13.3.9.post1", "10.13.3.9.post2"])
def test_number_of_the_packaging_is_no_other_version(machine_of, spelled):
    """PyPI's 10.13 calls itself 10.13.3.9.post1; NVIDIA's own packages of it do not."""
    machine = machine_of("10.13")
    with machine.open(machine.build(tensorrt_version=spelled)) as runtime:
        runtime.run({"input": images(3)})


COMPATIBLE = {"version_compat": True}


def test_version_compatible_engine(machine):
    """It holds a runtime of its own, code, which TensorRT runs only where that was allowed."""
    engine = machine.build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    with machine.open(engine) as runtime:
        assert np.abs(runtime.run({"input": images(3)})["logits"] - expected(images(3))).max() <= 1e-6
    with pytest.raises(RuntimeAdapterError, match=r"host code.*such a plan holds code, which runs only where its side"):
        machine.open(engine, check_sidecar=False)
    sidecar_path(engine).unlink()
    with pytest.raises(BundleError):
        machine.open(engine)


@pytest.mark.parametrize(("built", "opened"), [("10.3", "10.13"), ("8.6", "10.3"), ("10.13", "11.4")])
def test_version_compatible_engine_of_another_version(machine_of, built, opened):
    maker = machine_of(built)
    engine = maker.build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    machine = machine_of(opened)
    with machine.open(engine) as runtime:
        assert np.abs(runtime.run({"input": images(3)})["logits"] - expected(images(3))).max() <= 1e-6


@pytest.mark.parametrize(("built", "opened"), [("10.13", "10.3"), ("8.6", "11.4"), ("11.4", "10.13")])
def test_version_compatible_engine_that_no_promise_covers(machine_of, built, opened):
    engine = machine_of(built).build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    with pytest.raises(BundleError, match=r"loads those of its own major version and of the one before"):
        machine_of(opened).open(engine)


@pytest.fixture(
    params=[("lean", "tensorrt_lean"), ("lean", "tensorrt_lean_bindings"), ("dispatch", "tensorrt_dispatch")]
)
def lean_machine(request, machine_of, monkeypatch):
    """An edge image: TensorRT's lean or dispatch library, and not the full one."""
    machine = machine_of("10.13")
    machine.lean, module = request.param
    machine.install = lambda: (
        monkeypatch.setitem(sys.modules, "tensorrt", None),
        monkeypatch.setitem(sys.modules, module, machine.standin.module),
    )
    return machine


def test_lean_library_opens_version_compatible_engines(lean_machine):
    engine = lean_machine.build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    lean_machine.install()
    for flavor in (lean_machine.lean, None):  # by name, and found by itself
        with lean_machine.open(engine, flavor=flavor) as runtime:
            assert runtime.library_version == f"{lean_machine.lean} 10.13.3.9"
            assert np.abs(runtime.run({"input": images(3)})["logits"] - expected(images(3))).max() <= 1e-6


def test_lean_library_opens_no_other_engine(lean_machine):
    engine = lean_machine.build()
    lean_machine.install()
    with pytest.raises(
        BundleError, match=r"expected a version-compatible one: .* loads no other; .* --version-compat$"
    ):
        lean_machine.open(engine, flavor=lean_machine.lean)
    with pytest.raises(MissingDependencyError, match="tensorrt is needed"):
        lean_machine.open(engine)


def test_lean_library_checks_the_same(lean_machine):
    engine = lean_machine.build(
        options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE, compute_capability="7.2"
    )
    lean_machine.install()
    with pytest.raises(BundleError, match=r"compute capability 7\.2"):
        lean_machine.open(engine)
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(BundleError, match="changed since it was built"):
        lean_machine.open(engine)


@pytest.mark.parametrize("content", [None, types.ModuleType("tensorrt_lean")], ids=["missing", "placeholder"])
def test_lean_library_that_is_not_there(machine_10, monkeypatch, content):
    """`pip install --only-binary :all: tensorrt-lean-cu13` installs an empty package."""
    engine = machine_10.build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", content)
    with pytest.raises(
        MissingDependencyError, match=r"pip install tensorrt-lean-cu13-libs tensorrt-lean-cu13-bindings"
    ):
        machine_10.open(engine, flavor="lean")


def test_full_library_is_taken_where_it_is(lean_machine, monkeypatch):
    engine = lean_machine.build(options=BuildOptions(batch=BATCH, version_compat=True), flags=COMPATIBLE)
    full = sys.modules["tensorrt"]
    lean_machine.install()
    monkeypatch.setitem(sys.modules, "tensorrt", full)
    with lean_machine.open(engine) as runtime:
        assert runtime.library_version == "tensorrt 10.13.3.9"


def test_tensorrt_that_does_not_start(machine, monkeypatch):
    """Runtime's constructor gives nothing where CUDA does not start; in the real bindings that is a TypeError."""
    engine = machine.build()

    def nothing(logger):
        logger.log(machine.standin.module.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(machine.standin.module, "Runtime", nothing)
    with pytest.raises(ProviderUnavailableError, match=r"tensorrt [\d.]+ does not start: CUDA init.*see nvidia-smi"):
        machine.open(engine)


def test_driver_is_asked_before_a_runtime_is_made(machine, monkeypatch):
    """A lean runtime without a driver ends the process when it is used."""
    engine = machine.build()
    monkeypatch.setattr(machine.standin.module, "Runtime", lambda logger: pytest.fail("a runtime was made"))
    machine.cuda.devices = 0
    with pytest.raises(ProviderUnavailableError, match="needs an NVIDIA GPU; CUDA finds none"):
        machine.open(engine)


def test_type_that_numpy_lacks(machine_of, monkeypatch):
    machine = machine_of("10.3")
    engine = machine.build()
    monkeypatch.setattr(
        machine.standin.module.ICudaEngine, "get_tensor_dtype", lambda self, name: machine.standin.module.DataType.BF16
    )
    with pytest.raises(RuntimeAdapterError, match=r"tensor 'input' has type .*BF16.*, which NumPy lacks"):
        machine.open(engine)


# What each version is asked, and that asking otherwise shows


FLAGS = {
    # (version, precision): creation flags, precision flags
    ("8.6", "fp32"): ({"EXPLICIT_BATCH"}, set()),
    ("8.6", "fp16"): ({"EXPLICIT_BATCH"}, {"FP16"}),
    ("8.6", "int8"): ({"EXPLICIT_BATCH"}, {"INT8", "FP16"}),
    **{
        (version, precision): ({"EXPLICIT_BATCH", "STRONGLY_TYPED"}, set())
        for version in ("10.3", "10.13")
        for precision in MODELS
    },
    **{("11.4", precision): ({"STRONGLY_TYPED"}, set()) for precision in MODELS},
}


@pytest.mark.parametrize("precision", MODELS)
def test_flags(machine, precision):
    machine.build(precision=precision)
    record = machine.standin.builds[-1]
    creation, precisions = FLAGS[machine.standin.version, precision]
    assert record.creation_flags == creation
    assert record.builder_flags - {"TF32"} == precisions
    assert record.profile == {"input": tuple((size, CHANNELS, SIZE, SIZE) for size in (2, 3, 4))}
    assert record.succeeded


def set_precision(trt, network, config):
    config.set_flag(trt.BuilderFlag.FP16)


@pytest.mark.parametrize("version", ["10.3", "10.13"])
def test_a_precision_flag_on_a_strongly_typed_network_would_show(machine_of, monkeypatch, version):
    monkeypatch.setattr(exporter.engines.build, "_allow_precisions", set_precision)
    with pytest.raises(EngineBuildError, match="kFP16 is not compatible with a strongly typed network"):
        machine_of(version).build()


def test_a_precision_flag_on_11_would_show(machine_of, monkeypatch):
    monkeypatch.setattr(exporter.engines.build, "_allow_precisions", set_precision)
    with pytest.raises(AttributeError, match="FP16"):
        machine_of("11.4").build()


def test_a_missing_int8_flag_on_86_would_show(machine_of, monkeypatch):
    monkeypatch.setattr(exporter.engines.build, "_allow_precisions", lambda *_: None)
    with pytest.raises(EngineBuildError, match="the INT8 flag must be set"):
        machine_of("8.6").build(precision="int8")
    with pytest.raises(EngineBuildError, match="fp16 is not configured"):
        machine_of("8.6").build(precision="fp16")


def test_missing_explicit_batch_on_86_would_show(machine_of, monkeypatch):
    monkeypatch.setattr(exporter.engines.build, "_creation_flags", lambda trt, **_: 0)
    with pytest.raises(EngineBuildError, match="explicit batch dimension"):
        machine_of("8.6").build()


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        ("8.6", ["NetworkDefinitionCreationFlag.STRONGLY_TYPED", "BuilderFlag.STRIP_PLAN", "IProgressMonitor"]),
        ("8.6", ["DataType.INT64", "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"]),
        ("10.3", ["BuilderFlag.EDITABLE_TIMING_CACHE", "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"]),
        ("10.13", ["Builder.build_engine", "ICudaEngine.num_bindings", "Builder.max_batch_size", "EngineValidity"]),
        ("11.4", ["BuilderFlag.FP16", "BuilderFlag.INT8", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"]),
        ("11.4", ["IExecutionContext.execute_async_v2", "ICudaEngine.get_binding_name", "nptype"]),
    ],
)
def test_the_standin_has_no_more_than_the_version(machine_of, version, lacks):
    module = machine_of(version).standin.module
    for path in lacks:
        owner, _, name = path.rpartition(".")
        assert not hasattr(getattr(module, owner) if owner else module, name), path


def surface_of(module):
    """Return class name to the public names of a stand-in's classes, enum members among them."""
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, type):
            names = {word for kind in value.__mro__[:-1] for word in vars(kind)} | set(getattr(value, "settable", ()))
            members = set(getattr(value, "__members__", ()))
            found[name] = {word for word in members or names if not word.startswith("_")} - {"settable"}
    return found


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_the_standin_of_11_has_no_more_than_the_library_from_the_same_sources():
    """TensorRT-RTX 1.7 is built from TensorRT 11's sources, and its Python module is here to be asked."""
    import tensorrt_rtx

    surface = surface_of(make_tensorrt("11.4", CudaStandin()).module)
    assert {"Builder", "Runtime", "IBuilderConfig", "IExecutionContext", "IProfiler", "DeviceType"} <= surface.keys()
    assert sum(map(len, surface.values())) > 100
    more = {
        f"{name}.{word}"
        for name, words in surface.items()
        for word in words
        if not hasattr(getattr(tensorrt_rtx, name), word)
    }
    # Plugins written in Python, which RTX leaves out and nobody here uses.
    assert more == {f"NetworkDefinitionCreationFlag.PREFER_{kind}_PYTHON_PLUGINS" for kind in ("AOT", "JIT")}


def test_compute_capabilities_are_refused_where_tensorrt_builds_for_its_gpu(machine):
    source = machine.folder / "model.onnx"
    source.write_bytes(float32_model().SerializeToString())
    with pytest.raises(EngineBuildError, match=r"--compute-capability 8\.6 is not offered by tensorrt"):
        build_engine(source, options=BuildOptions(compute_capabilities=("8.6",)))


def test_a_missing_synchronize_would_show(machine_of, monkeypatch):
    machine = machine_of("10.3")
    runtime = machine.open(machine.build())
    monkeypatch.setattr(machine.cuda, "synchronize", lambda stream: None)
    logits = runtime.run({"input": images(3)})["logits"]
    assert (logits.view(np.uint8) == POISON).all()


def test_a_context_shared_between_graphs_would_show(machine_of, monkeypatch):
    machine = machine_of("10.3")
    runtime = machine.open(machine.build(), cuda_graphs=True)
    only = runtime._free[0]._context
    monkeypatch.setattr(runtimes.trt.execution_lane.Lane, "_context_for_graph", lambda self: only)
    runtime.run({"input": images(3)})
    runtime.run({"input": images(2)})
    with pytest.raises(AssertionError, match="changed after it was enqueued or captured"):
        runtime.run({"input": images(3)})


def test_a_capture_without_a_plain_execution_would_show(machine_of, monkeypatch):
    machine = machine_of("10.3")
    runtime = machine.open(machine.build(), cuda_graphs=True)
    enqueue = runtimes.trt.execution_lane.Lane._enqueue
    monkeypatch.setattr(
        runtimes.trt.execution_lane.Lane,
        "_enqueue",
        lambda self, context, stream: enqueue(self, context, stream) if machine.cuda.is_capturing(stream) else None,
    )
    with pytest.raises(RuntimeAdapterError, match="lazy initialization is pending"):
        runtime.run({"input": images(3)})


def test_a_forgotten_buffer_would_show(machine_of, monkeypatch):
    machine = machine_of("10.3")
    monkeypatch.setattr(runtimes.trt.adapter, "do_all", lambda steps: None)
    runtime = machine.open(machine.build())
    runtime.close()
    with pytest.raises(AssertionError):
        machine.cuda.assert_no_leaks()


# The stand-in of CUDA itself


def test_standin_cuda_sees_misuse():
    cuda = CudaStandin()
    stream, device, host = cuda.create_stream(), cuda.malloc(16), cuda.malloc_host(16)
    cuda.copy_to_device(device, host, 16, stream)
    for copy in (cuda.copy_to_device, cuda.copy_to_host):
        with pytest.raises(CudaMisuse, match=r"17 bytes at 0 of 16 bytes|is no"):
            copy(device, host, 17, stream)
    cuda.synchronize(stream)
    cuda.copy_to_device(device, host, 16, stream)
    cuda.free_host(host)
    with pytest.raises(CudaMisuse, match="use after free of host memory"):
        cuda.synchronize(stream)
    with pytest.raises(CudaMisuse, match="double free"):
        cuda.free_host(host)
    with pytest.raises(CudaMisuse, match="was not allocated as host memory"):
        cuda.free_host(device)
    cuda.begin_capture(stream)
    with pytest.raises(CudaMisuse, match="malloc during a capture"):
        cuda.malloc(4)
    with pytest.raises(CudaMisuse, match="synchronize during a capture"):
        cuda.synchronize(stream)
    cuda.destroy_graph(cuda.end_capture(stream))
    cuda.destroy_stream(stream)
    with pytest.raises(CudaMisuse, match="was destroyed"):
        cuda.synchronize(stream)
    assert cuda.leaks() == ["device 16 bytes"]


# The real TensorRT-RTX, which builds without a GPU and runs on none

REAL = """
import sys
from pathlib import Path
from runtimes.errors import RuntimeAdapterError
from runtimes.trt.adapter import TrtRuntime
for options in ({}, {"flavor": "rtx", "check_sidecar": False}):
    try:
        TrtRuntime(Path(sys.argv[1]), **options)
    except RuntimeAdapterError as err:
        print(type(err).__name__, err)

# As if CUDA found a GPU: TensorRT-RTX itself must be asked correctly, and its answer be an error, not a crash.
sys.path.insert(0, "tests")
from standins.cuda_standin import CudaStandin
Path(sys.argv[1] + ".damaged").write_bytes(b"no engine" * 100)
for name in (sys.argv[1], sys.argv[1] + ".damaged"):
    try:
        TrtRuntime(name, flavor="rtx", check_sidecar=False, cuda=CudaStandin())
    except RuntimeAdapterError as err:
        print(type(err).__name__, err)
"""


def has_gpu():
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/nvhost-gpu").exists()


@pytest.mark.tensorrt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.skipif(has_gpu(), reason="there is a GPU; this is about its absence")
def test_real_rtx_engine_without_a_gpu(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(float32_model().SerializeToString())
    engine = tmp_path / "model.rtx.engine"
    plan = build_engine(model, flavor="rtx", options=BuildOptions(batch=BATCH))
    engine.write_bytes(plan)
    sidecar = EngineSidecar(
        facts=EngineFacts(
            onnx_sha256="",
            precision="fp32",
            flavor="rtx",
            tensorrt_version=importlib.import_module("tensorrt_rtx").__version__,
            gpu=None,
            compute_capability=None,
            cuda=None,
            system=HERE,
            jetpack=None,
            batch=BATCH,
            flags={},
        ),
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_size_bytes=len(plan),
        onnx_file=model.name,
        warnings=(),
        tool={},
        build_seconds=0.0,
    )
    sidecar_path(engine).write_text(json.dumps(sidecar.to_json()))
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", REAL, str(engine)], cwd=root, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    for line in lines[:2]:
        assert line.startswith(("ProviderUnavailableError ", "MissingDependencyError "))
        assert "driver" in line or "GPU" in line or "cuda-bindings" in line
    assert lines[2].startswith(f"RuntimeAdapterError {engine} cannot run here: ")
    assert lines[3].startswith(f"RuntimeAdapterError {engine}.damaged cannot run here: ")
    assert "the file is damaged or is no TensorRT-RTX engine" in lines[3]
    assert f"resnet-export build {tmp_path} --fp32 --rtx" in lines[3]
