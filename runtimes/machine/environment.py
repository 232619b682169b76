"""Inspect this machine: CPU, GPU and driver, JetPack, library versions, and which of them really load.

Every probe returns what it found or the reason why not; none raises, and none imports a framework into this process:
whatever may be slow, hang or crash (a session on a GPU provider, `import tensorrt`) runs in a child with a time limit.
Standard library only, so that it answers where nothing else is installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from runtimes.machine.probe_process import ask_python, last_line, run_command

# The machine

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm")
"""CPU flags that decide the speed of FP32 and INT8; names as in /proc/cpuinfo, x86-64 then Arm."""


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The computer and the Python that runs here."""

    os: str
    kernel: str
    architecture: str
    cpu: str
    cpu_flags: tuple[str, ...]
    num_cores: int
    memory_bytes: int | None
    python: str
    executable: str


def machine_info() -> MachineInfo:
    """Return facts about the computer."""
    cpuinfo = _read_text(Path("/proc/cpuinfo")) or ""
    flags = set((_first_match(r"^(?:flags|Features)\s*:(.*)$", cpuinfo) or "").split())
    return MachineInfo(
        os=_os_name(),
        kernel=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=_cpu_name(cpuinfo),
        cpu_flags=tuple(flag for flag in CPU_FLAGS if flag in flags),
        num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        python=platform.python_version(),
        executable=sys.executable,
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.platform()


def _cpu_name(cpuinfo: str) -> str:
    """Return the model name; Arm kernels give none, there the board's name says more than nothing."""
    named = _first_match(r"^model name\s*:\s*(.+)$", cpuinfo)
    return named or _board() or platform.processor() or platform.machine()


def _board() -> str | None:
    text = _read_text(Path("/proc/device-tree/model"))
    return text.strip("\0 \n") or None if text else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


# GPU and driver

_CUDA_LIBRARY = "libcuda.so.1"
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
_DRIVER_VERSION_FILE = Path("/sys/module/nvidia/version")
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute, cuda.h


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU: name, compute capability such as "8.7", memory in MiB; None where the driver does not say."""

    index: int
    name: str
    compute_capability: str | None
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """The GPUs of this machine.

    Attributes:
        devices: What CUDA offers this process; where CUDA does not start, what nvidia-smi lists.
        driver_version: Such as "580.65.06", or None (no driver, or a Jetson's, which has no such number).
        cuda_version: The newest CUDA that the driver runs, such as "13.0", or None.
        reason: Why CUDA does not start here, or "".
    """

    devices: tuple[GpuDevice, ...]
    driver_version: str | None
    cuda_version: str | None
    reason: str

    @property
    def is_usable(self) -> bool:
        """Whether programs of this process can use a GPU."""
        return bool(self.devices) and not self.reason


def gpu_info() -> GpuInfo:
    """Return GPUs and driver: from libcuda, which knows what this process may use, and nvidia-smi for the rest."""
    devices, cuda_version, reason = _devices_from_libcuda()
    listed, driver_version, smi_reason = _devices_from_nvidia_smi()
    if not devices and listed:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        reason += "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    elif not devices:
        reason = f"{reason}; {smi_reason}"
    driver_version = driver_version or (_read_text(_DRIVER_VERSION_FILE) or "").strip() or None
    return GpuInfo(devices or listed, driver_version, cuda_version, reason)


def _devices_from_libcuda() -> tuple[tuple[GpuDevice, ...], str | None, str]:
    """Return devices, CUDA version of the driver, and the reason when there are none."""
    try:
        cuda = ctypes.CDLL(_CUDA_LIBRARY)
    except OSError as err:
        absent = "cannot open shared object file" in str(err)
        return (), None, f"no NVIDIA driver ({_CUDA_LIBRARY} {'not found' if absent else f'does not load: {err}'})"
    version = ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}" if version.value else None
    if code := cuda.cuInit(0):
        return (), cuda_version, f"CUDA does not start: {_cuda_error(cuda, code)}"
    count = ctypes.c_int(0)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    devices = tuple(_device_from_libcuda(cuda, index) for index in range(count.value))
    return devices, cuda_version, "" if devices else "CUDA starts but offers no GPU"


def _device_from_libcuda(cuda: ctypes.CDLL, index: int) -> GpuDevice:
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t(0)
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    capability = f"{major.value}.{minor.value}" if major.value else None
    return GpuDevice(index, name.value.decode(errors="replace"), capability, memory.value >> 20 or None)


def _cuda_error(cuda: ctypes.CDLL, code: int) -> str:
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(name))
    cuda.cuGetErrorString(code, ctypes.byref(text))
    if name.value is None:
        return f"error {code}"
    return f"{name.value.decode()} {code}, {(text.value or b'').decode()}"


def _devices_from_nvidia_smi() -> tuple[tuple[GpuDevice, ...], str | None, str]:
    """Return devices, driver version, and the reason when there are none."""
    answer = run_command(_NVIDIA_SMI)
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
    rows = [row for row in rows if len(row) == 4]
    if answer.reason or not rows:
        # nvidia-smi puts some of its errors on standard output
        return (), None, f"nvidia-smi {answer.reason or last_line(answer.stdout) or 'lists no GPU'}"
    devices = tuple(
        GpuDevice(index, name, _first_match(r"^(\d+\.\d+)$", capability), int(memory) if memory.isdigit() else None)
        for index, (name, capability, memory, _) in enumerate(rows)
    )
    return devices, _first_match(r"^(\d[\d.]*)$", rows[0][3]), ""


# JetPack

_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, slots=True)
class JetPackRelease:
    """One JetPack: its version, and the system Python, CUDA and TensorRT that it brings."""

    version: str
    python: str
    cuda: str
    tensorrt: str


_JETPACK_OF_L4T: tuple[tuple[str, JetPackRelease], ...] = (
    (r"35\.1(\..*)?", JetPackRelease("5.0.2", "3.8", "11.4", "8.4.1")),
    (r"35\.[2-6](\..*)?", JetPackRelease("5.1", "3.8", "11.4", "8.5")),
    (r"36\.[23](\..*)?", JetPackRelease("6.0", "3.10", "12.2", "8.6.2")),
    (r"36\.4(\.0)?", JetPackRelease("6.1", "3.10", "12.6", "10.3")),
    (r"36\.4\..*", JetPackRelease("6.2", "3.10", "12.6", "10.3")),
    (r"38\.2(\..*)?", JetPackRelease("7.0", "3.12", "13.0", "10.13")),
    (r"38\.4(\..*)?", JetPackRelease("7.1", "3.12", "13.0", "10.13")),
    (r"39\..*", JetPackRelease("7.2", "3.12", "13.2", "10.16")),
)
"""L4T release to JetPack, first match. Source: https://developer.nvidia.com/embedded/jetpack/downloads (archive pages),
dusty-nv/jetson-containers packages/cuda/tensorrt/config.py, https://pytorch.org/TensorRT/getting_started/jetpack.html;
the TensorRT of 7.0 and 7.1, and L4T 39 other than 39.2, are not confirmed."""


@dataclass(frozen=True, slots=True)
class JetPackInfo:
    """The Jetson software of this machine.

    Attributes:
        l4t: Jetson Linux release such as "36.4.3", or None.
        release: The JetPack it belongs to, or None.
        board: The device tree's name of the board, or None.
        reason: Why a value is None, or "".
    """

    l4t: str | None
    release: JetPackRelease | None
    board: str | None
    reason: str


def jetpack_version() -> JetPackInfo:
    """Return L4T release and JetPack of a Jetson; elsewhere the reason."""
    is_tegra = "nvidia,tegra" in (_read_text(Path("/proc/device-tree/compatible")) or "")
    board = _board() if is_tegra else None
    text = _read_text(_TEGRA_RELEASE)
    if text is None:
        reason = f"a Jetson, but {_TEGRA_RELEASE} cannot be read (a container?)" if is_tegra else "not a Jetson"
        return JetPackInfo(None, None, board, reason)
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    if found is None:
        return JetPackInfo(None, None, board, f"{_TEGRA_RELEASE} holds no release: {text[:80]!r}")
    l4t = f"{found[1]}.{found[2]}"
    release = next((release for pattern, release in _JETPACK_OF_L4T if re.fullmatch(pattern, l4t)), None)
    return JetPackInfo(l4t, release, board, "" if release else f"L4T {l4t} belongs to no JetPack that we know")


# Libraries

EXPORT_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")
RUNTIME_LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
CUDA_LIBRARIES = ("cuda-bindings", "cuda-python", "nvidia-curand")
LIBRARIES = (*EXPORT_LIBRARIES, *RUNTIME_LIBRARIES, *CUDA_LIBRARIES, "numpy", "pillow")
NOT_INSTALLED = "not installed"
RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
TENSORRT_MODULES = ("tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx", RTX_PLUGIN)

_IMPORT_TENSORRT = """
import importlib.util
name = sys.argv[1]  # the lean libraries' bindings may come without the package around them
names = [name, name + "_bindings"] if name in ("tensorrt_lean", "tensorrt_dispatch") else [name]
trt = __import__(next((found for found in names if importlib.util.find_spec(found)), name))
if not hasattr(trt, "Runtime") and not hasattr(trt, "get_ep_name"):
    sys.exit(name + " is there and holds nothing: an empty placeholder of a package")
capabilities = getattr(trt, "ComputeCapability", None)
names = [name for name in dir(capabilities) if name.startswith("SM")]
answer({"version": trt.__version__, "capabilities": names})
"""


@dataclass(frozen=True, slots=True)
class LibraryVersion:
    """A library: its version, or None; `reason` says why there is none, or what is odd about it."""

    name: str
    version: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class TensorRTInfo:
    """A TensorRT Python package.

    Attributes:
        module: One of `TENSORRT_MODULES`.
        version: What it says after a real import, or None.
        reason: Why it does not import, or "".
        compute_capabilities: The GPUs it can build for, such as "8.6"; empty where the library does not list them.
    """

    module: str
    version: str | None
    reason: str
    compute_capabilities: tuple[str, ...]


def rtx_serves(rtx: TensorRTInfo, capability: str | None) -> bool:
    """Tell whether engines of TensorRT-RTX can run on a GPU; a library or GPU that does not say is trusted."""
    return not rtx.compute_capabilities or capability is None or capability in rtx.compute_capabilities


def library_versions() -> tuple[LibraryVersion, ...]:
    """Return the versions of `LIBRARIES` from their metadata, without importing them.

    JetPack's own `tensorrt` may come without metadata: that one is imported, in a child.
    """
    return tuple(_library_version(name) for name in LIBRARIES)


def _library_version(name: str) -> LibraryVersion:
    from importlib import metadata  # here, because it brings the email package, 2 MB, into every app

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if name == "tensorrt":
            probed = tensorrt_info(name)
            return LibraryVersion(name, probed.version, probed.reason or "system package without metadata")
        return LibraryVersion(name, None, NOT_INSTALLED)
    # A dist-info folder without METADATA gives None, whatever the annotation says.
    return LibraryVersion(name, version, "" if version else "installed, but its metadata is broken; install it again")


def tensorrt_info(module: str) -> TensorRTInfo:
    """Import one of `TENSORRT_MODULES` in a child and return what it says."""
    answer = ask_python(_IMPORT_TENSORRT, module)
    if answer.reason:
        missing = f"No module named '{module}'" in answer.reason
        return TensorRTInfo(module, None, _not_installed(module) if missing else answer.reason, ())
    told = json.loads(answer.stdout)
    capabilities = tuple(
        f"{name[2:-1]}.{name[-1]}" for name in sorted(told["capabilities"], key=lambda sm: int(sm[2:]))
    )
    return TensorRTInfo(module, told["version"], "", capabilities)


def _not_installed(module: str) -> str:
    """Return "not installed", or where the system's Python has it."""
    homes = sorted(Path("/usr/lib").glob(f"python3*/dist-packages/{module}")) if module == "tensorrt" else []
    if homes and sys.prefix != sys.base_prefix:
        return f"not seen by this environment; {homes[0]} has it: make the environment with --system-site-packages"
    return f"not seen by this Python; {homes[0]} has it" if homes else NOT_INSTALLED


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _first_match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[found.lastindex or 0].strip() if found else None
