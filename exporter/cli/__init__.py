"""The `resnet-export` command: the only place that wires exporter, calibration and runtimes together.

Exit codes: 0 done; 1 the exported model does not answer like PyTorch; 2 wrong use or bad input; 70 a defect of this
program; 130 interrupted. Whatever the code, an unfinished bundle is never left behind.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from exporter.cli.arguments import parse_arguments

EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _interrupt)

    from calibration.errors import CalibrationError
    from exporter.errors import ExportCheckError, ExportError
    from runtimes.errors import RuntimeAdapterError

    try:
        from exporter.cli.export_job import run_export

        run_export(options)
    except ExportCheckError as err:
        return _fail(err, EXIT_CHECK_FAILED, verbose=options.verbose)
    except (ExportError, CalibrationError, RuntimeAdapterError) as err:
        return _fail(err, EXIT_BAD_INPUT, verbose=options.verbose)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as err:  # the last stop: a defect of this program, told in one line like any other error
        message = f"internal error: {type(err).__name__}: {err}\nrun again with -v for the traceback and report it"
        return _fail(RuntimeError(message).with_traceback(err.__traceback__), EXIT_DEFECT, verbose=options.verbose)
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Let SIGTERM clean up as Ctrl-C does."""
    raise KeyboardInterrupt


def _fail(err: Exception, code: int, *, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exception(err, file=sys.stderr)
    print(f"error: {err}", file=sys.stderr)
    return code
