"""Whether ONNX Runtime's INT8 kernels may saturate on this CPU, and which session option makes them exact.

For UINT8 activations and INT8 weights the fast kernels for x86 multiply and add two neighboring products in 16 bits
(`vpmaddubsw`): 255 * 127 * 2 = 64 770 becomes 32 767, and the answer is wrong where weights and activations are large
together. CPUs with VNNI add in 32 bits, as Arm's kernels do. On the others `session.x64quantprecision` makes ONNX
Runtime store the weights as UINT8, for kernels that are exact and slower. The option costs speed on a CPU with VNNI
too and gains nothing there, so it is set by what the CPU has.

Source: ONNX Runtime, pull request 12088 and `kOrtSessionOptionsAvx2PrecisionMode` in
onnxruntime_session_options_config_keys.h; Intel oneDNN, "Nuances of int8 computations".
"""

from __future__ import annotations

from functools import lru_cache

from runtimes.machine.environment import machine_info

PRECISE_OPTION = ("session.x64quantprecision", "1")
"""Key and value for `SessionOptions.add_session_config_entry`."""

X86_ARCHITECTURES = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})


@lru_cache(maxsize=1)
def why_int8_saturates() -> str:
    """Return why the default INT8 kernels may saturate on this machine, or an empty string where they are exact."""
    machine = machine_info()
    return why_saturating(machine.architecture, machine.cpu, machine.cpu_flags)


def why_saturating(architecture: str, cpu: str, cpu_flags: tuple[str, ...]) -> str:
    """Return why the default INT8 kernels may saturate on a machine, or an empty string.

    Args:
        architecture: Such as "x86_64" or "aarch64".
        cpu: The processor's name.
        cpu_flags: What it can, as /proc/cpuinfo calls it; none where the system does not say. An x86 CPU of which
            nothing is known is taken for one without VNNI.
    """
    if architecture.lower() not in X86_ARCHITECTURES or VNNI_FLAGS & set(cpu_flags):
        return ""
    return f"{cpu or 'this CPU'} has no VNNI: ONNX Runtime's INT8 kernels add two products in 16 bits and may saturate"
