"""`resnet-export triton BUNDLE -o models/`: the bundle as a Triton model repository."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from exporter.deploy.triton import TritonPlan, write_triton_repository
from exporter.deploy.triton_config import Serving, max_batch_size
from exporter.errors import OptionError
from resnet_export.console.option_types import positive, sizes, some_of
from resnet_export.console.put_json import put_json
from resnet_export.console.reporter import Reporter
from resnet_export.console.terminal import Terminal
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import Manifest, load_manifest


def run(arguments: argparse.Namespace) -> int:
    """Write the repository; return 0, or raise what writing it raises."""
    try:
        serving = Serving(
            max_batch=arguments.max_batch,
            preferred=arguments.preferred,
            max_queue_delay_us=arguments.max_queue_delay,
            instances=arguments.instances,
            device=arguments.device,
            gpus=arguments.gpus,
        )
    except ValueError as err:
        raise OptionError(str(err)) from err
    reporter = Terminal(quiet=arguments.quiet)
    plan = write_triton_repository(
        arguments.bundle,
        arguments.output,
        precisions=arguments.precision,
        name=arguments.name,
        serving=serving,
        force=arguments.force,
    )
    _tell(plan, load_manifest(arguments.bundle), serving, arguments.output, reporter)
    if arguments.json:
        models = [{"name": model.name, "backend": model.backend, "file": file.name} for model, file in plan.models]
        put_json({"repository": str(arguments.output), "models": models, "skipped": plan.skipped})
    elif not arguments.quiet:
        command = f"tritonserver --model-repository={quote(str(arguments.output))}"
        print(f"\nrepository: {arguments.output}/\nnext:       {command}")
    return 0


def _tell(plan: TritonPlan, manifest: Manifest, serving: Serving, repository: Path, reporter: Reporter) -> None:
    for model, file in plan.models:
        largest = max_batch_size(model, manifest, serving)
        batches = f"batches up to {largest}" if largest else "no batching by Triton: the file's batch is fixed"
        reporter.done(f"{repository / model.name}: {file.name}, backend {model.backend}, {batches}")
        if model.backend == "onnxruntime" and ".int8." in file.name and serving.device != "cpu":
            reporter.warn(
                f"{model.name}: ONNX Runtime's CUDA provider computes Q/DQ files in float; for INT8 kernels build the "
                "engine (resnet-export build --int8, on the server) and run this again"
            )
    for reason in plan.skipped:
        reporter.warn(f"left out: {reason}")


def _indices(text: str) -> tuple[int, ...]:
    if not all(word.isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected GPU indices such as 0,1")
    return tuple(int(word) for word in text.split(","))


def _delay(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected microseconds, a whole number >= 0")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Write a bundle's models into a Triton model repository."
    parser.epilog = (
        "Write into a repository that a running server polls only when it is not in use: Triton may look at a "
        "folder before it is whole."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the model repository")
    parser.add_argument(
        "--precision",
        type=some_of(MODEL_FILES),
        metavar="fp32,fp16,int8",
        help="which files (default: all; one keeps the plain NAME)",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the models (default: the bundle's model)")
    parser.add_argument("--max-batch", type=positive, metavar="N", help="largest batch (default: the bundle's)")
    parser.add_argument("--preferred", type=sizes, metavar="8,32", help="batches sent at once (default: OPT and MAX)")
    parser.add_argument(
        "--max-queue-delay",
        type=_delay,
        default=500,
        metavar="US",
        help="microseconds a request may wait for others (default 500)",
    )
    parser.add_argument("--instances", type=positive, default=1, metavar="N", help="copies on each device (default 1)")
    parser.add_argument(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="where they run (default auto)"
    )
    parser.add_argument("--gpus", type=_indices, default=(), metavar="0,1", help="indices of GPUs (default: all)")
    parser.add_argument("--force", action="store_true", help="replace models that this command wrote before")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
