"""Facts of this machine that bind an engine: GPU, CUDA, operating system, JetPack. No CUDA library is imported."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from runtimes.machine.environment import gpu_info, jetpack_version


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The facts that `runtimes.trt.engine_sidecar.EngineFacts` records; None where there is none."""

    gpu: str | None
    compute_capability: str | None
    cuda: str | None
    system: str
    jetpack: str | None


def machine_facts() -> MachineFacts:
    """Look at this machine; takes a fraction of a second, nvidia-smi being asked where it is there."""
    gpus = gpu_info()
    first = gpus.devices[0] if gpus.is_usable else None
    release = jetpack_version().release
    return MachineFacts(
        gpu=None if first is None else first.name,
        compute_capability=None if first is None else first.compute_capability,
        cuda=gpus.cuda_version,
        system=f"{platform.system()} {platform.machine()}",
        jetpack=None if release is None else release.version,
    )
