"""Refuse to use models in a forked child: it has its parent's objects, but not their threads and GPU contexts.

Using such an object hangs or crashes, and so does releasing it: an ONNX Runtime session joins, when it is destroyed,
threads that the child does not have (measured with ONNX Runtime 1.31). So a child refuses to use what its parent
opened, and never releases it. What cannot be helped here: ONNX Runtime hangs at the exit of a child whose parent had
imported it, model or not; such a child ends with `os._exit`, as those of `multiprocessing` do.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

from runtimes.errors import ForkedProcessError

_GUARDED: weakref.WeakSet[Any] = weakref.WeakSet()
_hooked = False


def never_release_in_a_child(native: Any) -> None:
    """Make sure that no forked child of this process destroys `native`, whatever becomes of the child."""
    global _hooked
    _GUARDED.add(native)
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_keep_for_ever)
        _hooked = True


def refuse_in_a_child(process: int) -> None:
    """Raise ForkedProcessError where this is not the process in which something was opened."""
    if os.getpid() != process:
        raise ForkedProcessError(
            f"this model was opened in process {process} and its threads did not come along into the fork "
            f"{os.getpid()}; load it in this process, or start processes with multiprocessing's 'spawn' or 'forkserver'"
        )


def _keep_for_ever() -> None:
    for native in list(_GUARDED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))  # a reference that nobody owns is never given back
