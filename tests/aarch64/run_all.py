"""From nothing to a report of what runs on AArch64, under QEMU; printed, and written into docs/jetson.md.

    python tests/aarch64/run_all.py [--short] [--write]
    python tests/aarch64/run_all.py --bundle DIR [--bundle DIR ...] [--write]     (also a network of your own)

Makes an arm64 root with the newest wheels and one with those that Python 3.10 gets, exports the demo's network, and
checks it there on a processor without and one with dot product and FP16; the tests run meanwhile. Five minutes on two
cores, `--short` one. Of the bundles given, the first golden images run through each file: a ResNet-18 of 224 pixels
takes some seconds an image. Exit code 1 if anything failed, 77 if this machine cannot emulate (the reason is printed).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path

from checks import (
    Guest,
    Row,
    check_answers,
    check_classify,
    check_cpp,
    check_doctor,
    check_golden_script,
    check_tests,
    check_verify,
    copy_in,
)
from emulator import CPUS, QEMU, Emulator, why_not
from guest_root import FOR_PYTHON_310, FOR_TESTS, NEWEST, ROOT, install, make_root, make_wheel

DOCUMENT = ROOT / "docs" / "jetson.md"
BEGIN, END = "<!-- begin: tests/aarch64/run_all.py -->", "<!-- end: tests/aarch64/run_all.py -->"
CANNOT = 77
IMAGES = "images"
"""Folder of the demo's images."""

EXACT = ("--precision", "fp32", "--precision", "int8")
"""What a processor without FP16 arithmetic verifies."""

OWN_IMAGES = 4
"""How many golden images of a bundle that was given are run."""

OLD, NEW = CPUS
"""Without and with dot product and FP16 arithmetic."""


def main() -> int:
    """Run all; print the report, and with --write keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a minute: the golden answers on one processor")
    parser.add_argument("--write", action="store_true", help="put the report into docs/jetson.md")
    parser.add_argument("--bundle", type=Path, action="append", default=[], metavar="DIR", help="check its files too")
    options = parser.parse_args()
    if options.short and options.bundle:
        parser.error("--bundle belongs to the full form")
    if reason := why_not():
        print(f"AArch64 cannot be emulated here: {reason}")
        return CANNOT
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(report_rows(Path(folder), short=options.short, given=options.bundle))
    failures = sum(not row.passed for row in rows)
    text = f"{table(rows)}\n\n{failures} failures in {time.monotonic() - begin:.0f} s. {conditions()}"
    print(f"\n{text}")
    if options.write:
        write_between(DOCUMENT, text)
    return 1 if failures else 0


def report_rows(folder: Path, *, short: bool, given: Sequence[Path]) -> Iterator[Row]:
    """Set up and check; yields a row per check."""
    tell = Stopwatch()
    with ThreadPoolExecutor(2) as beside:
        wheel, exported = beside.submit(make_wheel, folder), beside.submit(export_bundles, folder, short=short)
        root = make_root(folder)
        newest = install(root, "/site", wheel.result(), NEWEST if short else (*NEWEST, *FOR_TESTS))
        tell("root made, newest wheels installed")
        bundles = exported.result()
    tell("bundles exported")
    copy_in(newest, Path(__file__).with_name("guest_answers.py"), "guest_answers.py")
    for name, bundle in bundles.items():
        copy_in(newest, bundle, name)
    if short:
        yield check_verify(Guest(newest, OLD), "/guest/digits", *EXACT)
        for bundle, file, least_db in golden_files(bundles):
            yield check_answers(Guest(newest, OLD), bundle, f"/guest/{bundle.name}", file, least_db)
        yield check_cpp(root, bundles["digits"], folder / IMAGES, cpu=OLD, short=True)
        yield check_doctor(Guest(newest, OLD))
        return
    copy_tests(newest)
    works = full_form(newest, root, wheel.result(), folder, bundles, given)
    with ThreadPoolExecutor(os.cpu_count() or 1) as beside:  # most of a check keeps one processor busy
        for rows in [beside.submit(work) for work in works]:
            yield from rows.result()


def full_form(
    newest: Emulator, root: Path, wheel: Path, folder: Path, bundles: dict[str, Path], given: Sequence[Path]
) -> list[Callable[[], list[Row]]]:
    """Return the checks of the full form, the longest first: they run beside each other."""
    old, new = Guest(newest, OLD), Guest(newest, NEW)
    works: list[Callable[[], list[Row]]] = [
        lambda: [check_tests(new)],
        lambda: list(python_310(root, wheel)),
        lambda: [check_verify(new, "/guest/digits")],
        lambda: [check_verify(old, "/guest/digits", *EXACT)],
    ]
    works += [partial(own_network, new, bundle.resolve(), folder) for bundle in given]
    works += [partial(both_processors, newest, *which) for which in golden_files(bundles)]
    works += [
        lambda: [check_cpp(root, bundles["digits"], folder / IMAGES, cpu=OLD, short=False)],
        lambda: list(commands(new, folder / IMAGES / "val")),
    ]
    return works


class Stopwatch:
    """Prints what has been done, and when."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def __call__(self, what: str) -> None:
        """Print it."""
        print(f"{time.monotonic() - self.begin:4.0f} s: {what}", flush=True)


def export_bundles(folder: Path, *, short: bool) -> dict[str, Path]:
    """Export the demo's network for TensorRT (`digits`) and for ONNX Runtime (`digits-ort`)."""
    _checked(ROOT / "examples" / "digits" / "write_images.py", folder / IMAGES)
    weights = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"
    common: tuple[object, ...] = (
        "--weights",
        weights,
        "--calib",
        folder / IMAGES / "calib",
        "--quiet",
        "--effort",
        0,
        "--num-calib",
        64,
    )
    common += ("--calib-cache", folder / "cache")
    found = {}
    for name, more in {"digits": () if short else ("--fp16",), "digits-ort": ("--target", "onnxruntime")}.items():
        found[name] = folder / name
        _checked("-m", "resnet_export", "cifar_resnet20", "--int8", *common, *more, "-o", found[name])
    return found


def golden_files(bundles: dict[str, Path]) -> list[tuple[Path, str, float]]:
    """Return bundle, file and least SQNR in dB of each file whose golden answers are compared with the host's.

    What was seen: FP32 130 dB (order of summation), INT8 as written 43 dB (rounding ties flip a step), ONNX Runtime's
    dialect bit-equal, or 44 dB with the scales of an earlier export. There the first node that differed was a
    QLinearAdd: 14 of 65,536 values lay half way between two levels, and differed by one. ONNX Runtime's kernel for
    AArch64 rounds the product and then the sum, that for x86-64 only the sum (a fused multiply-add): with the one or
    the other, NumPy gives every QLinearAdd's bytes of this network on each (four pictures). Layers behind it then read
    other values. The bounds of 40 dB are a margin below what was seen on this one network, not derived.
    """
    trt, ort = bundles["digits"], bundles["digits-ort"]
    return [(trt, "model.onnx", 100), (trt, "model.int8.onnx", 40), (ort, "model.int8.onnx", 40)]


def both_processors(newest: Emulator, bundle: Path, file: str, least_db: float) -> list[Row]:
    """Golden answers on each processor, one after the other: the host's are computed once."""
    return [check_answers(Guest(newest, cpu), bundle, f"/guest/{bundle.name}", file, least_db) for cpu in (OLD, NEW)]


def own_network(guest: Guest, bundle: Path, folder: Path) -> list[Row]:
    """The first golden answers of a bundle's files; the bounds are those of the demo's network."""
    rows = []
    copied = folder / bundle.name
    shutil.copytree(bundle, copied)
    copy_in(guest.emulator, copied, copied.name)
    for name, least_db in {"model.onnx": 100, "model.fp16.onnx": 40, "model.int8.onnx": 30}.items():
        if (copied / name).is_file():
            rows.append(check_answers(guest, copied, f"/guest/{copied.name}", name, least_db, images=OWN_IMAGES))
    return rows


def commands(guest: Guest, images: Path) -> Iterator[Row]:
    """What a user types on a device."""
    yield check_doctor(guest)
    chosen = [path for digit in sorted(images.iterdir()) for path in sorted(digit.iterdir())[:2]]
    for path in chosen:
        (guest.emulator.root / "guest" / "val" / path.parent.name).mkdir(parents=True, exist_ok=True)
        copy_in(guest.emulator, path, f"val/{path.parent.name}/{path.name}")
    yield check_classify(guest, "/guest/digits-ort", "/guest/val", len(chosen))
    copy_in(guest.emulator, ROOT / "examples" / "jetson", "jetson")
    yield check_golden_script(guest, "/guest/digits", "model.int8.onnx")


def python_310(root: Path, wheel: Path) -> Iterator[Row]:
    """The newest versions that Python 3.10 gets (here under 3.11, which they support too)."""
    guest = Guest(install(root, "/site310", wheel, FOR_PYTHON_310), NEW, ", ONNX Runtime 1.23.2")
    yield check_doctor(guest)
    yield check_verify(guest, "/guest/digits")


def copy_tests(emulator: Emulator) -> None:
    """Copy what the tests read, without the packages: those are the wheel's."""
    (emulator.root / "guest" / "repository").mkdir()
    for name in ("tests", "examples", "docs", "pyproject.toml"):
        copy_in(emulator, ROOT / name, f"repository/{name}")
    photos = "exporter/models/check_photos"
    (emulator.root / "guest" / "repository" / photos).parent.mkdir(parents=True)
    copy_in(emulator, ROOT / photos, f"repository/{photos}")
    site = emulator.root / emulator.site.lstrip("/")
    (site / "absent_libraries.py").write_text(Path(__file__).with_name("absent_libraries.py").read_text())


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, by processor."""
    lines = ["| what | processor | outcome | | s |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.cpu):
        word = "as it should be" if row.passed else "**wrong**"
        lines.append(f"| {row.what} | {row.cpu} | {row.outcome} | {word} | {row.seconds:.0f} |")
    return "\n".join(lines)


def conditions() -> str:
    """Return where and when: a table without that says nothing."""
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    names = ("onnxruntime-gpu", "onnxruntime", "numpy", "pillow")
    have = []
    for name in names:
        try:
            have.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    today = datetime.now(timezone.utc).date().isoformat()
    return (
        f"{today}, QEMU {version.split()[2]}, guest Debian 12 arm64 with its Python 3.11 and the newest wheels; host "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(have)}."
    )


def write_between(document: Path, text: str) -> None:
    """Put the text between the markers."""
    content = document.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document} lacks {BEGIN} or {END}; nothing was written")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _checked(*words: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *(str(word) for word in words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(str(word) for word in words)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
