"""The `resnet-export` command: the only place that wires exporter, calibration and runtimes together.

`resnet-export MODEL ...` exports; a first word from `VERBS` does something else. Exit codes: 0 done; 1 the exported
model does not answer like PyTorch, or misses its accuracy budget; 2 wrong use or bad input; 70 a defect of this
program; 130 interrupted. Whatever the code, an unfinished file or bundle is never left behind.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, MappingProxyType

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "build": ("exporter.cli.build_command", "run_build"),
        "doctor": ("exporter.cli.doctor", "run_doctor"),
        "lint": ("exporter.cli.lint_command", "run_lint"),
        "models": ("exporter.cli.models_command", "run_models"),
        "sensitivity": ("exporter.cli.sensitivity_command", "run_sensitivity"),
        "verify": ("exporter.cli.verify_command", "run_verify"),
    }
)
"""Verb to module and function; the function takes the words after the verb and returns an exit code."""

EXPORT = ("exporter.cli.export_command", "run_export_command")


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
    from runtimes.errors import RuntimeAdapterError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command(words)
    except ExportCheckError as err:
        return _fail(err, EXIT_CHECK_FAILED, words)
    except (ExportError, CalibrationError, RuntimeAdapterError) as err:
        return _fail(err, EXIT_BAD_INPUT, words)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing unfinished was left behind", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as err:  # the last stop: a defect of this program, told in one line like any other error
        message = f"internal error: {type(err).__name__}: {err}\nrun again with -v for the traceback and report it"
        return _fail(RuntimeError(message).with_traceback(err.__traceback__), EXIT_DEFECT, words)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Let SIGTERM clean up as Ctrl-C does."""
    raise KeyboardInterrupt


def _fail(err: Exception, code: int, words: Sequence[str]) -> int:
    if {"-v", "--verbose"} & set(words):
        import traceback

        traceback.print_exception(err, file=sys.stderr)
    print(f"error: {err}", file=sys.stderr)
    return code
