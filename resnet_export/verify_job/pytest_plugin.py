"""The pytest plugin: a bundle's gates as test items, and the fixture `assert_parity`.

    pytest --resnet-export-bundle BUNDLE [--resnet-export-val DIR] [--resnet-export-gate int8.sqnr_db=25]

collects one item per file and gate of the bundle, and one for the checks of the bundle as a whole; `verify` runs once,
when the first of them does. In a test, `assert_parity(BUNDLE)` asks for the same, and `assert_parity(BUNDLE,
runtime=mine)` runs the bundle's golden inputs through a runtime of the test's own.

pytest loads this module in every run, so it imports nothing but pytest; the rest comes when an option or the fixture is
used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from resnet_export.images.image_set import ImageSource
    from runtimes.protocol import Runtime
    from runtimes.verification.gate_options import GateChoice
    from runtimes.verification.gates import GateResult

OPTION = "--resnet-export-bundle"
WHOLE = "bundle"
"""Name of the entry in verify's report that holds the checks of the bundle as a whole."""

Report = Mapping[str, Any]
_PASSING = ("pass", "skipped")


class ParityError(AssertionError):
    """A bundle does not answer like its reference, or nothing could be shown."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("resnet-export", "parity of resnet-export bundles")
    group.addoption(
        OPTION, action="append", default=[], metavar="PATH", help="collect the gates of this bundle as tests; repeat"
    )
    group.addoption("--resnet-export-val", metavar="DIR", help="images to compare on, as --val of resnet-export verify")
    group.addoption(
        "--resnet-export-gate", action="append", default=[], metavar="FILE|NAME=VALUE", help="as its --gate; repeat"
    )
    group.addoption(
        "--resnet-export-provider",
        type=_runtime,
        metavar="WORD",
        default="cpu",
        help="what runs it, as its --provider (default cpu)",
    )


def _runtime(text: str) -> str:
    from resnet_export.console.option_types import runtime_of_files

    return runtime_of_files(text)


def pytest_configure(config: pytest.Config) -> None:
    """Have the bundles collected like any other path that was given."""
    bundles = config.getoption(OPTION)
    if bundles and not hasattr(pytest, "Directory"):
        raise pytest.UsageError(f"{OPTION} needs pytest 8 or newer, found {pytest.__version__}")
    for bundle in bundles:
        path = Path(bundle)
        from runtimes.bundle.file_names import MANIFEST_NAME

        if not (path / MANIFEST_NAME).is_file():
            raise pytest.UsageError(f"{OPTION} {bundle}: got no folder with a manifest.json, expected a bundle")
        if str(path.resolve()) not in config.args:
            config.args.append(str(path.resolve()))


@pytest.hookimpl(optionalhook=True, tryfirst=True)  # pytest 7 has no such hook
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a bundle's gates instead of its files."""
    bundles = [Path(bundle).resolve() for bundle in parent.config.getoption(OPTION)]
    if path.resolve() not in bundles:
        return None
    collector: pytest.Collector = _bundle_directory().from_parent(parent, path=path)
    return collector


def _bundle_directory() -> Any:
    """Return the collector's class; made here because pytest 7 has no `pytest.Directory`."""

    class BundleDirectory(pytest.Directory):
        """A bundle; its children are its files."""

        def collect(self) -> Iterator[pytest.Collector]:
            from resnet_export.verify_job.subject import read_subject
            from runtimes.verification.gate_options import read_gates

            options = self.config.option
            subject = read_subject(self.path, (), provider=options.resnet_export_provider)
            choice = read_gates(options.resnet_export_gate)
            run = VerifyRun(self.path, options)
            gates_of_files = choice.gates_of_files([candidate.precision for candidate in subject.candidates])
            yield BundleFile.from_parent(self, name=WHOLE, gates=("checks",), run=run)
            for candidate, gates in zip(subject.candidates, gates_of_files, strict=True):
                names = tuple(gate.name for gate in gates)
                yield BundleFile.from_parent(self, name=candidate.name, gates=names, run=run)

    return BundleDirectory


class VerifyRun:
    """One run of `verify`, when the first item asks for it; what it raises, every item raises."""

    def __init__(self, bundle: Path, options: Any) -> None:
        self._bundle = bundle
        self._asked = {
            "provider": options.resnet_export_provider,
            "val": _folder(options.resnet_export_val or None),
            "gates": tuple(options.resnet_export_gate),
        }
        self._report: Report | None = None

    def gates_of(self, file: str) -> list[Report]:
        """Return what the gates of a file came to, an empty list where verify has none."""
        if self._report is None:
            self._report = verify_report(subject=self._bundle, **self._asked)
        return [gate for entry in self._report["files"] if entry["name"] == file for gate in entry["gates"]]


class BundleFile(pytest.Collector):
    """One file of a bundle; its children are its gates."""

    def __init__(self, *, gates: Sequence[str], run: VerifyRun, **options: Any) -> None:
        super().__init__(**options)
        self._gates = gates
        self._run = run

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one item per gate."""
        for gate in self._gates:
            yield GateItem.from_parent(self, name=gate, run=self._run)


class GateItem(pytest.Item):
    """One gate of one file, on every set of images that it was judged on."""

    def __init__(self, *, run: VerifyRun, **options: Any) -> None:
        super().__init__(**options)
        self._run = run

    def runtest(self) -> None:
        """Fail unless the gate passes; skip where nothing could be judged.

        Raises:
            ParityError: With the sentences of what failed or shows nothing.
        """
        assert self.parent is not None
        file = self.parent.name
        judged = [gate for gate in self._run.gates_of(file) if file == WHOLE or gate["name"] == self.name]
        for gate in judged:
            self.user_properties.append((f"{gate['name']} on {gate['on']}", gate["measured"]))
        if bad := [gate for gate in judged if gate["verdict"] not in _PASSING]:
            raise ParityError("\n".join(_sentence(file, gate) for gate in bad))
        if all(gate["verdict"] == "skipped" for gate in judged):
            pytest.skip("; ".join(gate["sentence"] for gate in judged) or "verify judged nothing here")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the sentences of a failed gate without a traceback of this module."""
        if isinstance(excinfo.value, ParityError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return where it is and what it is called."""
        assert self.parent is not None
        return self.path, None, f"{self.parent.name}: {self.name}"


def verify_report(**asked: Any) -> Report:
    """Run `verify` with these fields of `VerifyOptions` and return its report.

    Raises:
        ExportError, RuntimeAdapterError: As the command does for bad input.
    """
    from resnet_export.console.reporter import Reporter
    from resnet_export.verify_job.job import run_verify
    from resnet_export.verify_job.options import VerifyOptions

    return run_verify(VerifyOptions(**asked), Reporter())


def _folder(path: str | Path | None) -> ImageSource | None:
    from resnet_export.images.image_set import image_folder

    return None if path is None else image_folder(Path(path))


class AssertParity:
    """What the fixture `assert_parity` gives, for a test's type annotations."""

    def __call__(
        self,
        bundle: str | Path,
        runtime: str | Runtime = "cpu",
        *,
        precision: str | None = None,
        val: str | Path | None = None,
        against: str | None = None,
        weights: str | None = None,
        gates: Mapping[str, float | str] | None = None,
    ) -> Report:
        """Fail the test unless every gate passes; see the fixture."""
        __tracebackhide__ = True
        asked = [f"{name}={threshold}" for name, threshold in (gates or {}).items()]
        if not isinstance(runtime, str):
            if (val, against, weights) != (None, None, None):
                raise ValueError(
                    "val, against and weights belong to a runtime by name; a runtime of your own runs golden"
                )
            return _golden_parity(Path(bundle), runtime, precision, asked)
        report = verify_report(
            subject=Path(bundle),
            provider=runtime,
            precision=() if precision is None else (precision,),
            val=_folder(val),
            against=against,
            gates=tuple(asked),
            **({} if weights is None else {"weights": weights}),
        )
        if report["exit_code"]:
            bad = [
                _sentence(entry["name"], gate)
                for entry in report["files"]
                for gate in entry["gates"]
                if gate["verdict"] not in _PASSING
            ]
            causes = [f"cause: {cause['file']}: {cause['sentence']}" for cause in report["causes"]]
            raise ParityError("\n".join([f"{bundle}: {report['verdict']}: {report['summary']}", *bad, *causes]))
        return report


@pytest.fixture(scope="session")
def assert_parity() -> AssertParity:
    """Fail unless a bundle answers like its reference.

    `assert_parity(bundle)` runs `resnet-export verify`; `precision`, `val`, `against`, `weights` and `gates` (name to
    threshold, such as {"int8.sqnr_db": 25}; "off" takes a gate away) are its options, `runtime` is the word of its
    `--provider`. With an open runtime of your own as `runtime`, the images of the bundle's golden.npz go through that
    and its answers are held against PyTorch's stored ones, by the gates of `precision` (default: the bundle's lowest).
    Returns the report.
    """
    return AssertParity()


def _golden_parity(bundle: Path, runtime: Runtime, precision: str | None, asked: Sequence[str]) -> Report:
    """Run the golden inputs through a runtime and judge its logits."""
    __tracebackhide__ = True
    from resnet_export.verify_job.sides import logits_of
    from resnet_export.verify_job.subject import read_subject
    from runtimes.metrics.logit_meter import LogitMeter
    from runtimes.verification.gate_options import read_gates
    from runtimes.verification.gates import overall

    subject = read_subject(bundle, () if precision is None else (precision,))
    golden, lowest = subject.golden, subject.candidates[-1].precision
    assert golden is not None  # a bundle without golden.npz is refused
    choice: GateChoice = read_gates(asked)
    meter = LogitMeter(golden.logits.shape[1])
    names = [f"golden[{place}]" for place in range(len(golden.inputs))]
    meter.add(golden.logits, logits_of(runtime, golden.inputs), names=names)
    found = meter.report()
    results: tuple[GateResult, ...] = _judged(found, choice, lowest)
    verdict = overall(gate.verdict for gate in results)
    report = {"verdict": verdict.value, "metrics": found.to_json(), "gates": [gate.to_json() for gate in results]}
    if verdict.exit_code:
        name = type(runtime).__name__
        bad = [_sentence(name, gate.to_json()) for gate in results if gate.verdict.value not in _PASSING]
        raise ParityError("\n".join([f"{bundle}: {name} does not answer like PyTorch", *bad]))
    return report


def _judged(found: Any, choice: GateChoice, precision: str) -> tuple[GateResult, ...]:
    from runtimes.verification.gates import judge

    return judge(found, choice.gates_of_files([precision])[0], on="golden")


def _sentence(file: str, gate: Report) -> str:
    return f"{gate['verdict']}: {file}, {gate['on']}: {gate['sentence']}"
