"""Every file we write in every engine that may open it, as anybody opens it: signal to noise and agreement with FP32.

    python benchmarks/sessions.py --bundle FOLDER --onnxruntime-bundle FOLDER --val IMAGES --work DIR

The first bundle is one with --int8 --fp16, the second one with --int8 --target onnxruntime. Each engine runs in a
process of its own; what it needs is installed under --work from PyPI and npm, in versions that are named here:

    as written                 this ONNX Runtime, Q/DQ computed as the file says: what the others are held against
    ONNX Runtime 1.30 to 1.32  a session without options, in Python
    onnxruntime-node, -web     the same in JavaScript, native and WASM under node
    OpenVINO                   its CPU plug-in
    x86 without VNNI           ONNX Runtime under qemu-x86_64-static -cpu max, which has AVX2 and no VNNI
    AArch64                    ONNX Runtime under qemu-aarch64-static -cpu cortex-a76, in a Debian 12 made by mmdebstrap

An engine that is not there or fails has its reason in its cells. Emulators are slow, so they get fewer images
(--emulated), and their rows say so. Exit code 1 where a cell is more than 1 dB below the file as written on the same
images.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import load_manifest
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.image_batches import image_batches
from runtimes.preprocessing.image_folder import find_images

WORKERS = HERE / "session_workers"
VERSIONS = ("1.30.0", "1.31.1", "1.32.0")
EMULATED_VERSION = "1.31.1"
NODE_VERSION = "1.30.0"
OPENVINO = ("openvino==2026.4.1", "openvino-telemetry==2025.2.0")
ARM_WHEELS = (f"onnxruntime=={EMULATED_VERSION}", "numpy==2.4.6")
ARM_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
ARM_CPUINFO = (
    "Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd0b\nCPU revision\t: 1\n"
)
"""A Cortex-A76; without implementer and part ONNX Runtime 1.31 ends in a segmentation fault when it is imported."""
KINDS = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8", "INT8+FP16": "int8-fp16"}
ALLOWED_DB = 1.0
ENOUGH_DB = 60.0

Answers = Mapping[str, NDArray[np.float32]]


class NotRunError(Exception):
    """Why an engine did not run, in a few words."""


@dataclass(frozen=True)
class Engine:
    """One column: its name, how many images it gets, and what answers for them."""

    name: str
    num_images: int
    run: Callable[[Path, int, Sequence[Path]], Answers]


@dataclass(frozen=True)
class Cell:
    """What one engine answers with one file; a reason where it answers nothing."""

    sqnr_db: float = 0.0
    agreement: float = 0.0
    written_db: float = 0.0
    reason: str = ""

    @property
    def is_low(self) -> bool:
        """Whether the engine is worse than the file says."""
        return not self.reason and self.sqnr_db < min(self.written_db - ALLOWED_DB, ENOUGH_DB)

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        text = f"{self.sqnr_db:.1f} dB, {self.agreement:.1%}"
        return f"**{text}** (as written {self.written_db:.1f} dB)" if self.is_low else text


def main() -> int:
    """Print the table; return 1 where a cell is low."""
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    files = dict(files_of(options.bundle, options.onnxruntime_bundle, options.work))
    inputs = prepared(options.bundle, options.val, options.num_images)
    np.save(options.work / "inputs.npy", inputs)
    with OrtRuntime(files["FP32"]) as runtime:
        reference = run_one_by_one(runtime, inputs)
    written = {path.name: as_written(path, inputs) for path in files.values()}
    rows = {}
    for engine in engines(options):
        rows[engine.name] = column(engine, files, inputs, reference, written, options.work)
        print(engine.name, *map(str, rows[engine.name].values()), sep=" | ", file=sys.stderr)
    print("\n".join(table(files, rows, engines(options))))
    return int(any(cell.is_low for cells in rows.values() for cell in cells.values()))


def files_of(bundle: Path, for_onnxruntime: Path | None, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield the kind of file and a copy of it under a name of its own."""
    for kind, precision in KINDS.items():
        name = MODEL_FILES[precision]
        if (bundle / name).is_file():
            yield kind, Path(shutil.copy(bundle / name, work / name))
    if for_onnxruntime is not None:
        yield (
            "INT8 for ONNX Runtime",
            Path(shutil.copy(for_onnxruntime / "model.int8.onnx", work / "model.int8.onnxruntime.onnx")),
        )


def prepared(bundle: Path, val: Path, count: int) -> NDArray[np.float32]:
    """Return images spread evenly over the folder, prepared as the manifest says."""
    paths = find_images(val)
    chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    preprocessing = load_manifest(bundle).preprocessing
    batches = image_batches(chosen, preprocessing, batch_size=32, max_bad_fraction=0.01)
    return np.concatenate([batch.images for batch in batches])


def run_one_by_one(runtime: OrtRuntime, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first output of every image."""
    name = next(iter(runtime.input_specs))
    answers = [next(iter(runtime.run({name: image[np.newaxis]}).values())) for image in inputs]
    return np.concatenate(answers)


def as_written(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answers of the file with Q/DQ computed as it says."""
    with OrtRuntime(path, exact_qdq=True) as runtime:
        return run_one_by_one(runtime, inputs)


def engines(options: argparse.Namespace) -> list[Engine]:
    """Return every engine, in the order of the columns."""
    many, few, tools = len(np.load(options.work / "inputs.npy", mmap_mode="r")), options.emulated, options.work
    every = [
        *(Engine(f"ONNX Runtime {version}", many, partial(run_version, version)) for version in VERSIONS),
        Engine(f"onnxruntime-node {NODE_VERSION}", many, partial(run_javascript, "onnxruntime-node")),
        Engine(f"onnxruntime-web {NODE_VERSION}", many, partial(run_javascript, "onnxruntime-web")),
        Engine("OpenVINO 2026.4.1", many, run_openvino),
        Engine("x86 without VNNI (QEMU)", few, run_without_vnni),
        Engine("AArch64 (QEMU)", few, partial(run_aarch64, options.aarch64_root or tools / "aarch64")),
    ]
    return [engine for engine in every if options.only in engine.name]


def column(
    engine: Engine,
    files: Mapping[str, Path],
    inputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    written: Answers,
    work: Path,
) -> dict[str, Cell]:
    """Return the cell of every file; one that fails alone takes no other with it."""
    count = min(engine.num_images, len(inputs))
    np.save(work / "some.npy", inputs[:count])
    inputs[:count].tofile(work / "some.bin")
    cells = {}
    for kind, path in files.items():
        try:
            (got,) = engine.run(work, count, [path]).values()
        except NotRunError as err:
            cells[kind] = Cell(reason=str(err))
            continue
        expected = reference[:count]
        agreement = float(np.mean(expected.argmax(1) == got.argmax(1)))
        cells[kind] = Cell(sqnr_db(expected, got), agreement, sqnr_db(expected, written[path.name][:count]))
    return cells


def sqnr_db(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio; -inf where an answer is no number, inf where there is no noise."""
    if not np.isfinite(got).all():
        return -np.inf
    noise = np.square(expected.astype(np.float64) - got).sum()
    return float(10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise)) if noise else np.inf


def run_version(version: str, work: Path, count: int, files: Sequence[Path]) -> Answers:
    """Run one version of ONNX Runtime."""
    packages = installed(work / f"onnxruntime-{version}", [f"onnxruntime=={version}"])
    return python_worker([sys.executable], "onnxruntime", packages, work, files)


def run_openvino(work: Path, count: int, files: Sequence[Path]) -> Answers:
    """Run OpenVINO's CPU plug-in."""
    return python_worker([sys.executable], "openvino", installed(work / "openvino", OPENVINO), work, files)


def run_without_vnni(work: Path, count: int, files: Sequence[Path]) -> Answers:
    """Run ONNX Runtime on an emulated x86 that has AVX2 and no VNNI."""
    emulator = program("qemu-x86_64-static", "apt-get install qemu-user-static")
    packages = installed(work / f"onnxruntime-{EMULATED_VERSION}", [f"onnxruntime=={EMULATED_VERSION}"])
    return python_worker([emulator, "-cpu", "max", sys.executable], "onnxruntime", packages, work, files)


def run_aarch64(root: Path, work: Path, count: int, files: Sequence[Path]) -> Answers:
    """Run ONNX Runtime on an emulated Cortex-A76, in a Debian of its own."""
    emulator = program("qemu-aarch64-static", "apt-get install qemu-user-static")
    if not (root / "usr" / "bin" / "python3.11").exists():
        make_aarch64_root(root)
    packages = installed(
        work / "aarch64-site",
        ARM_WHEELS,
        *(word for platform in ARM_PLATFORMS for word in ("--platform", platform)),
        *("--python-version", "311", "--only-binary=:all:"),
    )
    cpuinfo = root / "cpuinfo"
    cpuinfo.write_text("".join(f"processor\t: {place}\n{ARM_CPUINFO}\n" for place in range(os.cpu_count() or 1)))
    guest = [emulator, "-cpu", "cortex-a76", "-L", str(root), str(root / "usr" / "bin" / "python3.11")]
    # QEMU before 8 shows the guest the host's /proc/cpuinfo, on which onnxruntime does not start.
    shell = f'mount --bind {cpuinfo} /proc/cpuinfo && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, "sh", *guest]
    return python_worker(command, "onnxruntime", packages, work, files, environment={"PYTHONHOME": str(root / "usr")})


def make_aarch64_root(root: Path) -> None:
    """Unpack Debian 12 for arm64: Python and what it loads."""
    maker = program("mmdebstrap", "apt-get install mmdebstrap")
    packages = "--include=python3,libstdc++6,bash,coreutils"
    finished([maker, "--variant=extract", "--architectures=arm64", packages, "bookworm", str(root)], "mmdebstrap fails")


def run_javascript(package: str, work: Path, count: int, files: Sequence[Path]) -> Answers:
    """Run a package of npm under node."""
    node, npm = program("node", "install Node.js"), program("npm", "install npm")
    modules = work / "npm" / "node_modules"
    if not (modules / package).is_dir():
        (work / "npm").mkdir(exist_ok=True)
        install = [npm, "install", "--prefix", str(work / "npm"), "--ignore-scripts", "--no-audit", "--no-fund"]
        finished([*install, f"{package}@{NODE_VERSION}"], f"npm does not install {package}")
    shape = ",".join(map(str, np.load(work / "some.npy", mmap_mode="r").shape))
    answers = work / "answers.json"
    words = [str(WORKERS / "worker.mjs"), package, str(modules), str(work / "some.bin"), shape, str(answers)]
    finished([node, *words, *map(str, files)], f"{package} fails")
    return {name: np.asarray(rows, np.float32) for name, rows in json.loads(answers.read_text()).items()}


def python_worker(
    interpreter: Sequence[str],
    engine: str,
    packages: Path,
    work: Path,
    files: Sequence[Path],
    environment: Mapping[str, str] | None = None,
) -> Answers:
    """Run `session_workers/worker.py` and return what it wrote."""
    answers = work / "answers.npz"
    answers.unlink(missing_ok=True)
    words = [str(WORKERS / "worker.py"), engine, str(packages), str(work / "some.npy"), str(answers)]
    finished([*interpreter, *words, *map(str, files)], f"{engine} fails", environment)
    with np.load(answers) as found:
        return dict(found)


def installed(folder: Path, requirements: Sequence[str], *options: str) -> Path:
    """Install wheels into a folder of their own, once; without what they depend on, which is here already."""
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        finished([*pip, *options, *requirements], f"pip does not install {requirements[0]}")
    return folder


def program(name: str, remedy: str) -> str:
    """Return the path of a program.

    Raises:
        NotRunError: If it is not installed.
    """
    if (found := shutil.which(name)) is None:
        raise NotRunError(f"not run: {name} is missing ({remedy})")
    return found


def finished(command: Sequence[str], failure: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command to its end.

    Raises:
        NotRunError: If it fails, with the last line that it said.
    """
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env={**own, **(environment or {})}, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotRunError(f"{failure}: {said[-1][:120] if said else f'exit code {done.returncode}'}")


def table(
    files: Mapping[str, Path], rows: Mapping[str, Mapping[str, Cell]], columns: Sequence[Engine]
) -> Iterator[str]:
    """Yield the table as Markdown: an engine per row, a kind of file per column."""
    yield "| engine | images | " + " | ".join(files) + " |"
    yield "|---|---|" + "---|" * len(files)
    for engine in columns:
        cells = rows[engine.name]
        yield f"| {engine.name} | {engine.num_images} | " + " | ".join(str(cells[kind]) for kind in files) + " |"


def parse_options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle with --int8 --fp16")
    parser.add_argument("--onnxruntime-bundle", type=Path, help="a bundle with --int8 --target onnxruntime")
    parser.add_argument("--val", type=Path, required=True, help="held-out images")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for engines and answers; kept for the next run"
    )
    parser.add_argument("--num-images", type=int, default=304, help="of --val, spread evenly (default 304)")
    parser.add_argument("--emulated", type=int, default=16, help="images that emulators get (default 16)")
    parser.add_argument("--only", default="", metavar="WORD", help="engines whose name holds this word")
    parser.add_argument("--aarch64-root", type=Path, help="a Debian 12 for arm64 that is there already")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
