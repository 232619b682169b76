"""The `resnet-export` command: verbs, exit codes, and what becomes of an error.

`resnet-export MODEL ...` exports; a first word from `VERBS` does something else. Exit codes: 0 done; 1 the exported
model does not answer like PyTorch, or misses its accuracy budget; 2 wrong use or bad input; 70 a defect of this
program; 130 interrupted. Whatever the code, an unfinished file or bundle is never left behind.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from exporter.errors import OptionError
from exporter.version import __version__

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

EXPORT = "export"
"""The verb that a first word which is no verb belongs to."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb; its module, imported when used, has `add_arguments(parser)` and `run(arguments) -> exit code`."""

    module: str
    summary: str


VERBS = {
    EXPORT: Verb("resnet_export.export_job.command", "MODEL to a bundle of ONNX files; the word may be left out"),
    "verify": Verb("resnet_export.verify_job.command", "does a bundle answer like its reference, else what broke"),
    "build": Verb("resnet_export.build_job.command", "a bundle's file to a TensorRT engine, on the device"),
    "bench": Verb("resnet_export.bench_job.command", "how fast a bundle is here, and what of it is noise"),
    "lint": Verb("resnet_export.commands.lint", "what a target refuses in an ONNX file, or computes otherwise"),
    "sensitivity": Verb("resnet_export.commands.sensitivity", "which blocks cost INT8 its accuracy"),
    "classify": Verb("resnet_export.commands.classify", "folders of images to a table, resumable, also on Ray"),
    "triton": Verb("resnet_export.commands.triton", "a Triton model repository"),
    "deepstream": Verb("resnet_export.commands.deepstream", "an nvinfer configuration and its model"),
    "web": Verb("resnet_export.commands.web", "a page that runs the bundle in a browser"),
    "package": Verb("resnet_export.commands.package", "Hugging Face, ONNX Runtime model package, MLflow"),
    "models": Verb("resnet_export.commands.models", "names, sizes, published accuracy"),
    "doctor": Verb("resnet_export.doctor_job.command", "what this machine can do, and what is missing"),
    "verify-signature": Verb("resnet_export.commands.verify_signature", "is a bundle whole, and by whom"),
    "completion": Verb("resnet_export.commands.completion", "a completion script for your shell"),
}

_EPILOG = """\
the main job: resnet-export MODEL [options], such as
  resnet-export resnet50 --int8 --fp16 --calib photos/ --val imagenet/val/
  resnet-export resnet18 --weights finetuned.pth --labels labels.txt --int8 --calib data/ --target jetpack6
  resnet-export model.onnx --int8 --calib data/

resnet-export export --help lists its options, resnet-export VERB --help those of another verb.
exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 3 inconclusive (verify), 70 a defect of this program,
130 interrupted
"""


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong before how it would be right."""

    def error(self, message: str) -> NoReturn:
        """Raise `OptionError`: one useful line, then where to read more."""
        raise OptionError(f"{message}\nsee {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a parent closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in (*VERBS, "-h", "--help", "--version"):
        words.insert(0, EXPORT)
    from resnet_export.console.interrupt import listening

    with listening():
        try:
            code = _guarded(words)
        except KeyboardInterrupt:  # while the first modules were imported
            code = _interrupted()
    if argv is None:
        gc.freeze()  # the process ends: looking through a traced network for cycles takes it more than a second
    return code


def command_parser(*verbs: str) -> CommandParser:
    """Return the parser of the whole command, with the arguments of `verbs`, whose modules are imported for it."""
    parser = CommandParser(
        prog="resnet-export",
        description="ResNets from PyTorch to INT8/FP16 on an edge device, with proof that they still answer the same.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"resnet-export {__version__}")
    common = CommandParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    common.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    several = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        known = several.add_parser(name, help=verb.summary, parents=[common], allow_abbrev=False)
        if name in verbs:
            _module(name).add_arguments(known)
    return parser


def _module(verb: str) -> ModuleType:
    return importlib.import_module(VERBS[verb].module)


def _guarded(words: Sequence[str]) -> int:
    """Run the command; turn what it raises into a message and an exit code."""
    from calibration.errors import CalibrationError
    from exporter.errors import ExportCheckError, ExportError
    from resnet_export.console import interrupt
    from runtimes.errors import RuntimeAdapterError
    from runtimes.needed_library import missing_library

    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8; stderr is so already
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(words)
    except ExportCheckError as err:
        return _fail(err, EXIT_CHECK_FAILED, words)
    except (ExportError, CalibrationError, RuntimeAdapterError) as err:
        return _fail(err, EXIT_BAD_INPUT, words)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as err:  # a disk, pipe or permission that nobody looked after: the system's refusal, not a defect
        _let_go_of_stdout()
        return _fail(OSError(f"the system refused: {err}").with_traceback(err.__traceback__), EXIT_BAD_INPUT, words)
    except MemoryError as err:
        told = f"not enough memory: {err or 'no more was given'}; give fewer images, or smaller batches (--batch)"
        return _fail(MemoryError(told).with_traceback(err.__traceback__), EXIT_BAD_INPUT, words)
    except Exception as err:  # the last stop: a defect of this program, told in one line like any other error
        if interrupt.was_requested():  # a library made something else of it
            return _interrupted()
        if isinstance(err, ImportError) and (lacks := missing_library(err)):
            return _fail(lacks.with_traceback(err.__traceback__), EXIT_BAD_INPUT, words)
        message = f"internal error: {type(err).__name__}: {err}\nrun again with -v for the traceback and report it"
        return _fail(RuntimeError(message).with_traceback(err.__traceback__), EXIT_DEFECT, words)


def _run(words: Sequence[str]) -> int:
    parser = command_parser(*words[:1])
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        raise OptionError(f"unrecognized arguments: {' '.join(unknown)}\nsee {parser.prog} {arguments.verb} --help")
    code = int(_module(arguments.verb).run(arguments))
    sys.stdout.flush()  # a full disk is told before the code is decided
    return code


def _interrupted() -> int:
    print("\ninterrupted; nothing unfinished was left behind", file=sys.stderr)
    return EXIT_INTERRUPTED


def _let_go_of_stdout() -> None:
    """Send what standard output still holds nowhere: Python would try to write it again at exit, and fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _fail(err: Exception, code: int, words: Sequence[str]) -> int:
    # The words are asked, not the parsed arguments: the parser's own errors have none.
    if {"-v", "--verbose"} & set(words):
        import traceback

        traceback.print_exception(err, file=sys.stderr)
    print(f"error: {err}", file=sys.stderr)
    return code
