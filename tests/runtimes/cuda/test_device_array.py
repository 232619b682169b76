"""Inputs that lie in GPU memory already, on the stand-ins: nothing is copied to the GPU, and nobody reads too early.

Memory of other libraries is played by blocks of the CUDA stand-in, written in streams of their own, which run nothing
before somebody waits for them.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from standins.cuda_standin import CudaMisuse, CudaStandin
from standins.tensorrt_standin import VERSIONS, make_tensorrt

from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from runtimes.bundle.manifest import BatchRange
from runtimes.cuda.device_array import LEGACY_STREAM, DeviceArray, _DLTensor, is_on_device, read_cuda_array
from runtimes.errors import InputMismatchError
from runtimes.ort.adapter import OrtRuntime
from runtimes.trt.adapter import TrtRuntime

SHAPE = (3, 8, 8)
MADE = []
"""Every producer of a test, closed at its end."""


def images(count):
    return np.random.default_rng(count).normal(size=(count, *SHAPE)).astype(np.float32)


class Producer:
    """Another library's array: its values are written by work that waits in its stream."""

    def __init__(self, cuda, values, *, stream=None, offset=0):
        self.cuda, self.values = cuda, values
        self.stream = cuda.create_stream() if stream is None else stream
        self.block = cuda.malloc(values.nbytes + offset)
        self.address = self.block + offset
        self.closed = False
        cuda.enqueue(self.stream, self._write)
        MADE.append(self)

    def _write(self):
        content = np.frombuffer(self.values.tobytes(), np.uint8)
        self.cuda.device_bytes(self.address, content.size)[:] = content

    def close(self):
        if not self.closed:
            self.closed = True
            self.cuda.synchronize(self.stream)
            self.cuda.free(self.block)
            if self.stream > 2:
                self.cuda.destroy_stream(self.stream)


class WithInterface:
    """`__cuda_array_interface__`, as Numba and PyTorch give it."""

    def __init__(self, producer, *, version=3, **changes):
        values = producer.values
        told = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (producer.address, False),
            "strides": None,
            "version": version,
        }
        if version >= 3:
            told["stream"] = producer.stream
        self.__cuda_array_interface__ = {**told, **changes}


class ManagedTensor(ctypes.Structure):
    pass


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(ManagedTensor))
ManagedTensor._fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]
CAPSULE_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class WithDlpack:
    """DLPack as CuPy and PyTorch give it: the stream it is asked for waits for its own; a capsule owns the tensor."""

    def __init__(self, producer, *, device=(2, 0), code=2, strides=None, lanes=1, byte_offset=0):
        self.producer, self.device, self.asked, self.dropped = producer, device, [], []
        self.options = (code, strides, lanes, byte_offset)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream):
        self.asked.append(stream)
        self.producer.cuda.wait_for_stream(stream, self.producer.stream)
        code, strides, lanes, byte_offset = self.options
        values = self.producer.values
        shape = (ctypes.c_int64 * values.ndim)(*values.shape)
        steps = None if strides is None else (ctypes.c_int64 * values.ndim)(*strides)
        tensor = _DLTensor(
            self.producer.address - byte_offset,
            *self.device,
            values.ndim,
            code,
            8 * values.itemsize,
            lanes,
            ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)),
            ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64)),
            byte_offset,
        )
        held = ManagedTensor(tensor)
        destructor = CAPSULE_DESTRUCTOR(lambda _: self.dropped.append(True))
        self.keep = (shape, steps, held, destructor)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, CAPSULE_DESTRUCTOR)
        return new(ctypes.addressof(held), b"dltensor", destructor)


FORMS = {"interface": WithInterface, "dlpack": WithDlpack}


@pytest.fixture(scope="module")
def model():
    made = GraphBuilder(channels=3, size=8)
    made.gemm("logits", made.node("Relu", "relu", made.conv("conv", "input", 4)), 5, transB=1)
    return made.model("logits")


@pytest.fixture(scope="module")
def answers(model):
    with OrtRuntime(model) as reference:
        yield lambda array: reference.run({"input": array})["logits"]


@pytest.fixture
def opened(model, tmp_path, monkeypatch):
    """Open the engine, batch 2 to 4, in a version; afterwards nothing may be left."""
    made = []

    def make(version="10.3", **options):
        cuda = CudaStandin()
        standin = make_tensorrt(version, cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
        path = tmp_path / "model.onnx"
        onnx.save_model(model, path)
        engine = tmp_path / "model.engine"
        engine.write_bytes(build_engine(path, options=BuildOptions(batch=BatchRange(2, 3, 4))))
        runtime = TrtRuntime(engine, cuda=cuda, check_sidecar=False, flavor="tensorrt", **options)
        made.append((runtime, cuda))
        return runtime, cuda

    yield make
    while MADE:
        MADE.pop().close()
    for runtime, cuda in made:
        runtime.close()
        cuda.assert_no_leaks()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_read_in_place(version, form, opened, answers):
    runtime, cuda = opened(version)
    producer = Producer(cuda, images(3))
    got = runtime.run({"input": FORMS[form](producer)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)
    assert cuda.calls["copy_to_device"] == cuda.calls["copy_on_device"] == 0
    assert cuda.calls["copy_to_host"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_without_waiting_it_would_be_read_too_early(form, opened, answers, monkeypatch):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3))
    monkeypatch.setattr(cuda, "wait_for_stream", lambda stream, other: None)
    got = runtime.run({"input": FORMS[form](producer)})["logits"]
    assert np.abs(got - answers(producer.values)).max() > 1e3  # the poison of memory that was never written


def test_memory_that_was_freed_would_show(opened):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3))
    array = WithInterface(producer)
    array.__cuda_array_interface__["stream"] = None
    producer.close()
    with pytest.raises(CudaMisuse, match="use after free"):
        runtime.run({"input": array})


def test_dlpack_is_asked_for_our_stream_and_dropped_afterwards(opened, answers, monkeypatch):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3))
    array = WithDlpack(producer)
    synchronize, at_sync = cuda.synchronize, []

    def noting(stream):
        at_sync.append(list(array.dropped))
        synchronize(stream)

    monkeypatch.setattr(cuda, "synchronize", noting)
    got = runtime.run({"input": array})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)
    assert array.asked[0] > 2
    assert array.asked[0] in cuda.streams
    assert array.asked[0] != producer.stream
    assert at_sync == [[]], "the tensor was given back before its work was done"
    assert array.dropped == [True]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_any_batch(count, form, opened, answers):
    runtime, cuda = opened()
    producer = Producer(cuda, images(count))
    got = runtime.run({"input": FORMS[form](producer)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)
    assert cuda.calls["copy_to_device"] == 0
    padded = count % 4 == 1
    assert cuda.calls["copy_on_device"] == 2 * padded  # the piece of one row, and its copy for the second


@pytest.mark.parametrize("form", FORMS)
def test_graphs_copy_on_the_gpu(form, opened, answers):
    runtime, cuda = opened(cuda_graphs=True)
    for seed in range(3):
        producer = Producer(cuda, images(3) + seed)
        got = runtime.run({"input": FORMS[form](producer)})["logits"]
        np.testing.assert_allclose(got, answers(producer.values), atol=1e-5)
    assert (cuda.calls["copy_to_device"], cuda.calls["copy_on_device"]) == (0, 3)
    assert (cuda.calls["begin_capture"], cuda.calls["launch_graph"]) == (1, 2)


def test_an_address_that_tensorrt_refuses_is_copied_on_the_gpu(opened, answers):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3), offset=64)
    got = runtime.run({"input": WithInterface(producer)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)
    assert (cuda.calls["copy_to_device"], cuda.calls["copy_on_device"]) == (0, 1)


def test_turns_with_numpy(opened, answers):
    """The engine's own buffer is where NumPy's inputs go, whatever was read before."""
    runtime, cuda = opened(max_contexts=1)
    first, second = Producer(cuda, images(3)), Producer(cuda, images(3) * 2)
    for _ in range(2):
        for values, given in (
            (first.values, WithInterface(first)),
            (images(4), images(4)),
            (second.values, WithDlpack(second)),
            (images(3), images(3)),
        ):
            np.testing.assert_allclose(runtime.run({"input": given})["logits"], answers(values), atol=1e-5)
    assert cuda.calls["copy_to_device"] == 4


def test_version_2_names_no_stream_so_the_default_stream_is_waited_for(opened, answers):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3), stream=LEGACY_STREAM)
    got = runtime.run({"input": WithInterface(producer, version=2)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)


def test_a_stream_of_none_needs_no_waiting(opened, answers):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3))
    cuda.synchronize(producer.stream)
    got = runtime.run({"input": WithInterface(producer, stream=None)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)
    assert cuda.calls["wait_for_stream"] == 0


def test_dlpack_byte_offset(opened, answers):
    runtime, cuda = opened()
    producer = Producer(cuda, images(3), offset=512)
    got = runtime.run({"input": WithDlpack(producer, byte_offset=512)})["logits"]
    np.testing.assert_allclose(got, answers(producer.values), atol=1e-6)


class OnCpu:
    """DLPack in main memory, of a library that is not NumPy."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_dlpack_in_main_memory(opened, answers):
    runtime, cuda = opened()
    values = images(3)
    np.testing.assert_allclose(runtime.run({"input": OnCpu(values)})["logits"], answers(values), atol=1e-6)
    with pytest.raises(InputMismatchError, match="got float64"):
        runtime.run({"input": OnCpu(values.astype(np.float64))})
    assert cuda.calls["copy_to_device"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda cuda: WithInterface(Producer(cuda, images(3).astype(np.float64))),
            r"float64 \[3, 3, 8, 8\] on the GPU",
        ),
        (lambda cuda: WithInterface(Producer(cuda, images(3)[:, :2].copy())), r"float32 \[3, 2, 8, 8\] on the GPU"),
        (lambda cuda: WithInterface(Producer(cuda, images(3)), shape=(0, *SHAPE)), "empty array"),
        (lambda cuda: WithInterface(Producer(cuda, images(3)), strides=(768, 4, 96, 12)), "gaps or turned axes"),
        (lambda cuda: WithInterface(Producer(cuda, images(3)), stream=0), "stream 0"),
        (lambda cuda: WithInterface(Producer(cuda, images(3)), data=None), "cannot be read in place"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), device=(2, 1)), "on GPU 1, expected GPU 0"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), device=(10, 0)), "cannot read by DLPack"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), code=4), "DLPack type 4 of 32 bits"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), lanes=4), "DLPack type 2"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), code=0), r"got int32 \[3, 3, 8, 8\] on the GPU"),
        (lambda cuda: WithDlpack(Producer(cuda, images(3)), strides=(192, 64, 1, 8)), "gaps or turned axes"),
    ],
)
def test_what_is_refused(make, message, opened):
    runtime, cuda = opened(max_contexts=1)
    array = make(cuda)
    with pytest.raises(InputMismatchError, match=message):
        runtime.run({"input": array})
    with pytest.raises(InputMismatchError, match="'input' is missing"):
        runtime.run({"images": array})
    assert runtime.run({"input": images(3)})["logits"].shape == (3, 5), "the engine serves on"


def test_strides_of_axes_of_one_do_not_matter():
    told = {"shape": (1, 3, 1, 8), "typestr": "<f4", "data": (4096, True), "strides": (7, 32, 9, 4), "version": 3}
    array = read_cuda_array(type("Told", (), {"__cuda_array_interface__": told})())
    assert array.is_contiguous
    assert not array.is_writeable


def test_rows_in_place():
    array = DeviceArray(4096, np.dtype(np.float16), (6, 2, 3), None)
    assert (array[2:5].address, array[2:5].shape, array[2:5].nbytes) == (4096 + 2 * 12, (3, 2, 3), 36)
    assert len(array[4:99]) == 2
    with pytest.raises(ValueError, match="step 2"):
        array[::2]


def test_what_is_on_a_device():
    assert not is_on_device(np.ones(3))
    assert not is_on_device(OnCpu(np.ones(3)))
    assert not is_on_device([1.0])
    assert is_on_device(DeviceArray(0, np.dtype(np.float32), (1,), None))
