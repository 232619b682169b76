"""The `resnet-export` command: the only place that wires exporter, calibration and runtimes together.

`resnet-export MODEL ...` exports; a first word from `VERBS` does something else. Exit codes: 0 done; 1 the exported
model does not answer like PyTorch, or misses its accuracy budget; 2 wrong use or bad input; 70 a defect of this
program; 130 interrupted. Whatever the code, an unfinished file or bundle is never left behind.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "bench": ("resnet_export.bench_job.command", "run_bench"),
        "build": ("resnet_export.build_job.command", "run_build"),
        "classify": ("resnet_export.commands.classify", "run_classify"),
        "deepstream": ("resnet_export.commands.deepstream", "run_deepstream"),
        "doctor": ("resnet_export.doctor.command", "run_doctor"),
        "lint": ("resnet_export.commands.lint", "run_lint"),
        "models": ("resnet_export.commands.models", "run_models"),
        "verify-signature": ("resnet_export.commands.verify_signature", "run_verify_signature"),
        "sensitivity": ("resnet_export.commands.sensitivity", "run_sensitivity"),
        "triton": ("resnet_export.commands.triton", "run_triton"),
        "verify": ("resnet_export.verify_job.command", "run_verify"),
    }
)
"""Verb to module and function; the function takes the words after the verb and returns an exit code."""

EXPORT = ("resnet_export.export_job.command", "run_export_command")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS.get(words[0]) if words else None
    module, function = verb or EXPORT
    command: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), function)
    return _guarded(command, words[1:] if verb else words)


def _guarded(command: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Run one command; turn what it raises into a message and an exit code."""
    from calibration.errors import CalibrationError
    from exporter.errors import ExportCheckError, ExportError
    from resnet_export.console import interrupt
    from runtimes.errors import RuntimeAdapterError

    interrupt.listen()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8; stderr is so already
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _flushed(command(words))
    except ExportCheckError as err:
        return _fail(err, EXIT_CHECK_FAILED, words)
    except (ExportError, CalibrationError, RuntimeAdapterError) as err:
        return _fail(err, EXIT_BAD_INPUT, words)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as err:  # a disk, pipe or permission that nobody looked after: the system's refusal, not a defect
        _let_go_of_stdout()
        return _fail(OSError(f"the system refused: {err}").with_traceback(err.__traceback__), EXIT_BAD_INPUT, words)
    except Exception as err:  # the last stop: a defect of this program, told in one line like any other error
        if interrupt.was_requested():  # a library made something else of it
            return _interrupted()
        message = f"internal error: {type(err).__name__}: {err}\nrun again with -v for the traceback and report it"
        return _fail(RuntimeError(message).with_traceback(err.__traceback__), EXIT_DEFECT, words)


def _interrupted() -> int:
    print("\ninterrupted; nothing unfinished was left behind", file=sys.stderr)
    return EXIT_INTERRUPTED


def _flushed(code: int) -> int:
    """Return an exit code once standard output is written: a full disk is told before the code is decided."""
    sys.stdout.flush()
    return code


def _let_go_of_stdout() -> None:
    """Send what standard output still holds nowhere: Python would try to write it again at exit, and fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _fail(err: Exception, code: int, words: Sequence[str]) -> int:
    if {"-v", "--verbose"} & set(words):
        import traceback

        traceback.print_exception(err, file=sys.stderr)
    print(f"error: {err}", file=sys.stderr)
    return code
