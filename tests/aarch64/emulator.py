"""Run programs of an arm64 root under QEMU's user-mode emulation, children of theirs included.

The kernel hands arm64 programs to QEMU through binfmt_misc, which is mounted in a user and mount namespace of its own
(Linux 6.7 and newer), so that neither root nor a change to the host is needed. QEMU before 8.1 shows its programs the
host's /proc/cpuinfo, from which ONNX Runtime and `resnet-export doctor` read what the processor can; over that file one
of the emulated processor is mounted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

QEMU = "qemu-aarch64-static"

CPUS: Mapping[str, tuple[str, str]] = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""QEMU's name of a processor to its part number and features: a72 (Raspberry Pi 4) has neither dot product nor FP16
arithmetic, a76 (Raspberry Pi 5) has both. Source: Linux, arch/arm64/include/asm/cputype.h and kernel/cpuinfo.c."""

# The interpreter is opened when it is registered (flag F), so that it need not lie in the root.
_REGISTER = (
    r":resnet-export-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:F"
)
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--fork", "bash", "-ec")
_ENTER = """
root=$1; register=$2; cpuinfo=$3; shift 3
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$register" > /proc/sys/fs/binfmt_misc/register
for folder in proc dev sys; do mount --rbind /$folder "$root/$folder"; done
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
exec chroot "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Emulator:
    """An arm64 root and how to run what lies in it.

    Attributes:
        root: Folder of the root file system.
        site: Folder of its Python packages, as seen inside, such as "/site".
    """

    root: Path
    site: str = "/site"

    def run(self, command: Sequence[str], *, cpu: str, folder: str = "/guest") -> subprocess.CompletedProcess[str]:
        """Run a command in the root.

        Args:
            command: Program and arguments, as seen inside.
            cpu: A key of `CPUS`.
            folder: Where it runs, as seen inside.
        """
        register = _REGISTER.format(qemu=shutil.which(QEMU))
        inside = ["/usr/bin/env", "-C", folder, *command]
        return subprocess.run(
            [*_UNSHARE, _ENTER, "enter", str(self.root), register, str(self._cpuinfo(cpu)), *inside],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment(cpu),
        )

    def python(self, *words: object, cpu: str, folder: str = "/guest") -> subprocess.CompletedProcess[str]:
        """Run the root's Python."""
        return self.run(["/usr/bin/python3", *(str(word) for word in words)], cpu=cpu, folder=folder)

    def _environment(self, cpu: str) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "PYTHONPATH": self.site,
            "QEMU_CPU": cpu,
        }

    def _cpuinfo(self, cpu: str) -> Path:
        """Write what Linux shows on such a processor, for as many processors as the host has."""
        part, features = CPUS[cpu]
        path = self.root / f"cpuinfo-{cpu}"
        if path.exists():  # what runs meanwhile may have it mounted
            return path
        whole = self.root / f"cpuinfo-{cpu}-{threading.get_ident()}"
        whole.write_text(
            "".join(
                f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
                f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
                for number in range(os.cpu_count() or 1)
            )
        )
        return whole.rename(path)


def why_not() -> str:
    """Return what is missing here to emulate, or an empty string."""
    programs = (QEMU, "mmdebstrap", "unshare", "chroot", "aarch64-linux-gnu-g++", "cmake")
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    if missing := [name for name in programs if shutil.which(name, path=path) is None]:
        return (
            f"not installed: {', '.join(missing)}; "
            "apt-get install qemu-user-static mmdebstrap g++-aarch64-linux-gnu cmake"
        )
    script = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc"
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"binfmt_misc cannot be mounted in a user namespace, which takes Linux 6.7: {tried.stderr.strip()}"
    return ""
