"""Which of ONNX Runtime's execution providers really load here, and which library is missing where one does not.

`get_available_providers()` lists what was compiled in and says nothing about what loads. So each provider opens a
session on a tiny model, in a child of its own.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtimes.machine.environment import NOT_INSTALLED
from runtimes.machine.probe_process import PROBE_TIMEOUT_S, Answer, ask_python
from runtimes.machine.version_numbers import version_numbers

PROBE_MODEL = (
    b'\x08\x08:g\n\x0f\n\x01x\n\x01w\x12\x01y"\x04Conv\x12\x05probe*\x13\x08\x01\x08\x01\x08\x01\x08\x01\x10\x01"\x04'
    b"\x00\x00\x00@B\x01wZ\x1b\n\x01x\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01\n\x02"
    b"\x08\x01b\x1b\n\x01y\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01B\x04\n"
    b"\x00\x10\x11"
)
"""ONNX file, opset 17, IR 8: y = Conv(x, w), x and y float32 [1, 1, 1, 1], w the constant 2. A convolution, because
the CUDA provider loads cuDNN only when it meets one: with an Add it would seem to work without cuDNN. Made by

    helper.make_model(helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [x], [y], [w]),
                      opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()

and compared with that in tests/runtimes/machine/test_environment.py."""

_LIST_PROVIDERS = """
import onnxruntime
cuda = getattr(onnxruntime, "cuda_version", None)
answer({"version": onnxruntime.__version__, "cuda": cuda, "providers": onnxruntime.get_available_providers()})
"""

_OPEN_SESSION = """
provider, setup, model = sys.argv[1:]
if "tensorrt" in setup:
    try:
        import tensorrt
    except ImportError:
        pass
import numpy, onnxruntime
if "preload_dlls" in setup and hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(bytes.fromhex(model), providers=[provider])
if session.get_providers()[0] != provider:
    sys.exit("fell back to " + ", ".join(session.get_providers()))
(result,) = session.run(None, {"x": numpy.ones((1, 1, 1, 1), "float32")})
if result.item() != 2.0:
    sys.exit(f"answers wrongly: got {result.item()}, expected 2")
answer({})
"""

PRELOAD = "onnxruntime.preload_dlls()"
_SETUPS = {
    "CPUExecutionProvider": ("",),
    "CUDAExecutionProvider": ("", PRELOAD),
    "TensorrtExecutionProvider": ("", PRELOAD, f"import tensorrt, {PRELOAD}"),
}
"""Setups tried in turn before the session is opened; the libraries of pip packages lie outside the loader's path."""

_MISSING_LIBRARY = re.compile(r"\b(lib[\w+-]+\.so[.\d]*): cannot open shared object file")
_PACKAGE_OF_LIBRARY = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libcudart": "nvidia-cuda-runtime",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvJitLink": "nvidia-nvjitlink",
    "libcudnn": "nvidia-cudnn",
    "libnvinfer": "tensorrt",
    "libnvinfer_plugin": "tensorrt",
    "libnvonnxparser": "tensorrt",
}


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """One execution provider that is compiled into the installed ONNX Runtime.

    Attributes:
        name: Such as "CUDAExecutionProvider".
        loads: Whether a session opened on it and computed a convolution.
        setup: What had to run before the session, or "".
        reason: Why it does not load, or "".
        missing_library: The shared library that is missing, or None.
        package: The requirement for pip that brings that library, or None.
    """

    name: str
    loads: bool
    setup: str
    reason: str
    missing_library: str | None
    package: str | None


@dataclass(frozen=True, slots=True)
class OnnxRuntimeInfo:
    """The installed ONNX Runtime: version, the CUDA it was built for, its providers; or the reason why none."""

    version: str | None
    cuda_version: str | None
    providers: tuple[ProviderInfo, ...]
    reason: str

    def provider(self, name: str) -> ProviderInfo | None:
        """Return the provider `name`; None where it is not compiled in."""
        return next((provider for provider in self.providers if provider.name == name), None)

    def loads(self, name: str) -> bool:
        """Tell whether the provider `name` really loads."""
        return (provider := self.provider(name)) is not None and provider.loads


def loadable_providers(*, timeout_s: float = PROBE_TIMEOUT_S) -> OnnxRuntimeInfo:
    """Open a session on every compiled-in provider, each in children of its own, and tell which really load.

    `onnxruntime.get_available_providers()` says nothing about that: it lists what was compiled in.
    """
    answer = ask_python(_LIST_PROVIDERS, timeout_s=timeout_s)
    if answer.reason:
        missing = "No module named 'onnxruntime'" in answer.reason
        return OnnxRuntimeInfo(None, None, (), NOT_INSTALLED if missing else answer.reason)
    told = json.loads(answer.stdout)
    cuda_version = told["cuda"] or None
    with ThreadPoolExecutor(max_workers=len(told["providers"]) or 1) as pool:
        providers = pool.map(lambda name: probe_provider(name, cuda_version, timeout_s), told["providers"])
        return OnnxRuntimeInfo(told["version"], cuda_version, tuple(providers), "")


def probe_provider(name: str, cuda_version: str | None, timeout_s: float = PROBE_TIMEOUT_S) -> ProviderInfo:
    """Open a session on one provider, in children of its own, and tell whether it loads, or what is missing."""
    answer = Answer("", "", "")
    for setup in _SETUPS.get(name, ("",)):
        answer = ask_python(_OPEN_SESSION, name, setup, PROBE_MODEL.hex(), timeout_s=timeout_s)
        if not answer.reason:
            return ProviderInfo(name, True, setup, "", None, None)
        if answer.timed_out:
            break
    missing = _MISSING_LIBRARY.search(answer.stderr)
    if missing is None:
        return ProviderInfo(name, False, "", answer.reason, None, None)
    package = package_of_library(missing[1], cuda_version)
    return ProviderInfo(name, False, "", missing[0], missing[1], package)


def package_of_library(library: str, cuda_version: str | None) -> str | None:
    """Return what pip must install for a library of a CUDA (None: 13), or None, as for the driver's libcuda."""
    stem, _, number = library.partition(".so")
    package = _PACKAGE_OF_LIBRARY.get(stem if stem in _PACKAGE_OF_LIBRARY else stem.split("_")[0])
    if package is None:
        return None
    cuda_major = version_numbers(cuda_version or "13")[0]
    if package == "tensorrt":
        major = number.strip(".").split(".")[0]
        versions = f"=={major}.*" if major else ""
        return f"tensorrt-cu{cuda_major}{versions}"
    # From CUDA 13 on NVIDIA's packages carry no suffix, but cuDNN's does.
    suffix = f"-cu{cuda_major}" if cuda_major < 13 or package == "nvidia-cudnn" else ""
    return package + suffix
