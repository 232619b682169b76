"""Which CPUs saturate, and that the option for them is known to ONNX Runtime."""

from __future__ import annotations

import pytest

from runtimes.ort.int8_kernels import why_saturating


@pytest.mark.parametrize(
    ("architecture", "flags"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni")),  # Intel Cascade Lake, AMD Zen 4
        ("x86_64", ("avx2", "avx_vnni")),  # Intel Alder Lake
        ("aarch64", ("asimd", "asimddp")),
        ("arm64", ()),
    ],
)
def test_these_are_exact(architecture, flags):
    assert why_saturating(architecture, "some CPU", flags) == ""


@pytest.mark.parametrize("architecture", ["x86_64", "AMD64"])
@pytest.mark.parametrize("flags", [("avx2",), ("avx2", "avx512f"), ()])
def test_these_may_saturate(architecture, flags):
    assert why_saturating(architecture, "AMD EPYC 7763", flags).startswith("AMD EPYC 7763 has no VNNI: ")


def test_a_cpu_without_a_name():
    assert why_saturating("x86_64", "", ()).startswith("this CPU has no VNNI")
