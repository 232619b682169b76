"""`resnet-export bench BUNDLE|FILE...`: how long preparing, running and answering take here, and what of it is noise.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from resnet_export.bench_job.mlperf import SCENARIOS, MlperfResult, load_loadgen, run_scenario
from resnet_export.bench_job.plot import check_can_plot, plot_rows
from resnet_export.bench_job.stages import BenchedModel, BenchRow, bench
from resnet_export.console.option_types import (
    file_to_write,
    positive,
    runtime,
    runtime_words,
    seconds,
    sizes,
    some_of,
    thread_count,
)
from resnet_export.console.put_json import add_json_option, prints_json, put_json
from resnet_export.console.reporter import Reporter
from resnet_export.console.terminal import Terminal, print_table
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.counted import counted
from runtimes.inference.load import load
from runtimes.inference.runtime_registry import AUTO
from runtimes.machine.environment import machine_info
from runtimes.machine.power_state import power_state, warnings_of
from runtimes.metrics.interleaved_timing import MIN_ROUNDS
from runtimes.preprocessing.image_folder import files_passed_over, find_images, passed_over_told
from runtimes.preprocessing.model_input import BACKENDS

CHECK_PHOTOS = Path(__file__).parents[2] / "exporter" / "models" / "check_photos"
COLUMNS = ("", "batch", "prepare", "run p50", "p90", "p99", "answer", "images/s", "spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Models to time, and how; fields as on the command line."""

    models: tuple[Path, ...]
    batch: tuple[int, ...] = (1,)
    provider: str = AUTO
    precision: tuple[str, ...] = ()
    threads: int | None = None
    backend: str = "pillow"
    draft: bool = False
    images: Path | None = None
    rounds: int = MIN_ROUNDS
    seconds: float = 0.5
    mlperf: tuple[str, ...] = ()
    mlperf_seconds: float = 10.0


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 0, or raise what loading raises."""
    printed = prints_json(arguments)
    if arguments.plot is not None:
        check_can_plot()
    words = vars(arguments) | {"models": tuple(arguments.models)}
    options = BenchOptions(**{field.name: words[field.name] for field in fields(BenchOptions)})
    report, rows = time_models(options, Terminal(quiet=arguments.quiet or printed))
    if arguments.plot is not None:
        plot_rows(rows, arguments.plot)
    _write(report, rows, arguments)
    return 0


def time_models(options: BenchOptions, reporter: Reporter) -> tuple[dict[str, Any], list[BenchRow]]:
    """Return how long preparing, running and answering take, as JSON holds it and row by row.

    Raises:
        RuntimeAdapterError: If a model does not open.
        MissingDependencyError: If MLPerf's load generator is asked for and not installed.
    """
    if options.mlperf:
        load_loadgen()
    pictures = find_images(options.images or CHECK_PHOTOS)
    if options.images is not None and (others := files_passed_over(options.images)):
        reporter.warn(passed_over_told(str(options.images), others))
    before = power_state()
    with ExitStack() as stack:
        candidates = _candidates(options, stack)
        with reporter.working(f"{len(candidates)} x {len(options.batch)} batch sizes, {options.rounds} rounds"):
            rows = bench(candidates, pictures, batches=options.batch, rounds=options.rounds, seconds=options.seconds)
        mlperf = [_mlperf(candidate, pictures, options, reporter) for candidate in candidates]
        report = _report(candidates, rows, [result for results in mlperf for result in results])
    after = power_state()
    report["power"] = {"before": before.to_json(), "after": after.to_json()}
    report["warnings"] = list(warnings_of(before, after))
    for warning in report["warnings"]:
        reporter.warn(warning)
    return report, rows


def _candidates(options: BenchOptions, stack: ExitStack) -> list[BenchedModel]:
    """Open every model in every precision that was named; the table's names are as short as they can be."""
    found: list[BenchedModel] = []
    seen: Counter[str] = Counter()
    for path in options.models:
        for precision in options.precision or (None,):
            model = load(
                path,
                provider=options.provider,
                precision=precision,
                threads=options.threads,
                backend=options.backend,
                draft=options.draft,
            )
            stack.enter_context(model)
            told = model.describe()
            word = told.precision or Path(told.file).name
            name = f"{path.name} {word}" if len(options.models) > 1 else word
            seen[name] += 1
            found.append(BenchedModel(name if seen[name] == 1 else f"{name} ({seen[name]})", model))
    return found


def _mlperf(
    candidate: BenchedModel, pictures: Sequence[Path], options: BenchOptions, reporter: Reporter
) -> list[dict[str, Any]]:
    results = []
    for scenario in options.mlperf:
        inputs = candidate.model.prepare(pictures[:32])
        with reporter.working(f"MLPerf {scenario}, {candidate.name}"):
            result: MlperfResult = run_scenario(
                candidate.model, inputs, scenario, seconds=options.mlperf_seconds, offline_batch=max(options.batch)
            )
        results.append({"name": candidate.name, **asdict(result)})
    return results


def _report(
    candidates: Sequence[BenchedModel], rows: Sequence[BenchRow], mlperf: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": asdict(machine_info()),
        "models": {candidate.name: candidate.model.describe().to_json() for candidate in candidates},
        "rows": [row.to_json() for row in rows],
        "mlperf": mlperf,
        "timing": "prepare: from files to the input array; run: Model.run, with whatever copies to and from a device "
        "the runtime makes, which none of them tells apart; answer: outputs to classes. Wall time of one call.",
    }


def _threads(count: int | None) -> str:
    return "default threads" if count is None else counted(count, "thread")


def _write(report: dict[str, Any], rows: Sequence[BenchRow], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        put_json(report, arguments.json)
    if arguments.quiet or prints_json(arguments):
        return
    machine = report["machine"]
    flags = ", ".join(machine["cpu_flags"])
    footer = [
        f"{name}: {told['runtime']}, {told['provider']}, {_threads(told['threads'])}, {told['file']}"
        for name, told in report["models"].items()
    ]
    footer += [
        f"run beside the first, {row.name}, batch {row.batch}: {row.against_first}" for row in rows if row.against_first
    ]
    footer += [
        f"MLPerf {result['scenario']}, {result['name']}: {result['value']:.4g} {result['unit']} "
        f"({'valid' if result['is_valid'] else 'INVALID'} by the load generator; not a reviewed MLPerf result)"
        for result in report["mlperf"]
    ]
    footer.append(
        f"{machine['num_cores']} cores of {machine['cpu']} ({flags}), {report['date'][:10]}; times in ms, one call"
    )
    footer.append("spread: largest minus smallest round's median of run, as a share")
    print_table("", COLUMNS, [_cells(row) for row in rows], footer)


def _cells(row: BenchRow) -> tuple[str, ...]:
    run = row.stages["run"]

    def median(stage: str) -> str:
        return f"{row.stages[stage].p50_ms:.3f}" if stage in row.stages else "-"

    return (
        row.name,
        str(row.batch),
        median("prepare"),
        f"{run.p50_ms:.3f}",
        f"{run.p90_ms:.3f}",
        f"{run.p99_ms:.3f}",
        median("answer"),
        f"{row.images_per_second:.1f}",
        f"{run.spread:.1%}",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = (
        "Time preparation, run and answer of bundles, ONNX files and engines on this machine. Several are timed in"
        " turns and compared with the first; a difference is named only where it lies beyond the noise."
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="BUNDLE|FILE")
    parser.add_argument("--batch", type=sizes, default=(1,), metavar="1,8,32", help="batch sizes (default 1)")
    parser.add_argument(
        "--provider", type=runtime, default=AUTO, metavar=runtime_words(), help="what runs it (default auto)"
    )
    parser.add_argument(
        "--precision",
        type=some_of(MODEL_FILES),
        default=(),
        metavar="fp32,int8",
        help="files of each bundle (default: the one that load() picks)",
    )
    parser.add_argument("--threads", type=thread_count, metavar="N", help="threads of one operator on the CPU")
    parser.add_argument("--backend", choices=BACKENDS, default="pillow", help="of the preparation (default pillow)")
    parser.add_argument("--draft", action="store_true", help="decode huge JPEGs at a reduced size")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures to prepare (default: four photographs)")
    parser.add_argument(
        "--rounds",
        type=positive,
        default=MIN_ROUNDS,
        metavar="N",
        help=f"turns of each (default {MIN_ROUNDS}; fewer compare nothing)",
    )
    parser.add_argument("--seconds", type=seconds, default=0.5, metavar="S", help="of one turn (default 0.5)")
    parser.add_argument(
        "--mlperf",
        type=some_of(SCENARIOS),
        default=(),
        metavar=",".join(SCENARIOS),
        help="also by MLCommons' load generator ([bench])",
    )
    parser.add_argument(
        "--mlperf-seconds", type=seconds, default=10.0, metavar="S", help="of one scenario (default 10)"
    )
    add_json_option(parser, "the report")
    parser.add_argument(
        "--plot", type=file_to_write, metavar="FILE", help="latency by batch: .png, .svg, .pdf; [bench]"
    )
