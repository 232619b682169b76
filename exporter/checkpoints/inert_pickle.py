"""A pickle as plain data: containers, numbers, strings, and inert records of whatever would have been called.

Training scripts store more than weights: `argparse.Namespace`, NumPy scalars, paths, dates, hyper-parameters of any
class. Unpickled, each of them imports a module and calls it. Here nothing is imported and nothing is called: a name
becomes a `Name`, a call a `Made` that holds what it was called with. Only what a fixed table knows (tensors, plain
containers, bytes, NumPy numbers) becomes a value, by code of this project.

Names whose call can only mean harm (`os.system`, `builtins.exec`, a method such as `Path.touch`) end the reading all
the same: such a file is not what it says it is.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, ClassVar

from exporter.errors import UnsafeCheckpointError

_HARMFUL_MODULES = frozenset({
    "_posixsubprocess", "asyncio", "code", "codeop", "commands", "concurrent", "ctypes", "distutils",
    "fcntl", "ftplib", "http", "imp", "importlib", "marshal", "mmap", "multiprocessing", "nt", "os",
    "pickle", "_pickle", "pip", "pkgutil", "platform", "popen2", "posix", "pty", "runpy", "setuptools",
    "shelve", "shutil", "signal", "smtplib", "socket", "ssl", "subprocess", "sys", "tempfile",
    "threading", "timeit", "urllib", "webbrowser", "zipimport"
})  # fmt: skip
"""Whose functions act on the machine. Nothing is called in any case; a call of one of these is refused aloud."""

_HARMLESS_BUILTINS = frozenset({
    "bool", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object", "range",
    "set", "slice", "str", "tuple",
    "long", "unicode", "xrange"
})  # fmt: skip
_KEYS = (str, int, float, bytes, type(None))
"""Types allowed as keys: hashing anything else of a file (a tuple nested a million deep) can end the process."""


@dataclass(frozen=True, slots=True)
class Name:
    """Name that a pickle would have imported: `text` is "module.name"."""

    text: str


@dataclass(slots=True, eq=False)
class Made:
    """What a pickle would have made by calling "module.name", and then given: state, items by key, elements."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Numbers outside the pickle; `window` is (first, count) in elements of a part, before PyTorch 0.4."""

    kind: str
    key: str
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A view of a storage; offsets and strides in elements. `dtype` is a name where the storage's kind has none."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


def read_inert(content: bytes | BytesIO, storages: dict[str, Storage] | None = None) -> object:
    """Return what the pickle that `content` begins with describes, importing and calling nothing; fill `storages`.

    Raises:
        UnsafeCheckpointError: If it calls what acts on the machine, or what another call returned.
        Exception: Whatever damage makes a reader raise: `pickle.UnpicklingError`, EOFError, ValueError, ...
    """
    reader = _InertUnpickler(BytesIO(content) if isinstance(content, bytes) else content)
    if storages is not None:
        reader.storages = storages
    return reader.load()


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> StoredTensor:
    # rest: requires_grad, backward_hooks, metadata
    sizes, strides = _sizes(size), _sizes(stride)
    if not isinstance(storage, Storage) or type(offset) is not int or len(sizes) != len(strides):
        raise pickle.UnpicklingError("a tensor without storage, offset, size and stride")
    return StoredTensor(storage, offset, sizes, strides)


def _typed_tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> StoredTensor:
    _, _, dtype = rest[:3]  # requires_grad, backward_hooks, dtype
    if not isinstance(dtype, Name):
        raise pickle.UnpicklingError("a tensor without a dtype")
    return replace(_tensor(storage, offset, size, stride), dtype=dtype.text.rpartition(".")[2])


def _window(value: object) -> tuple[int, int] | None:
    """Return (first, count) of a storage's (key, first, count), None where it is whole."""
    if value is None:
        return None
    first, count = _sizes(value[1:] if isinstance(value, tuple) else value)
    return first, count


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or any(type(size) is not int or size < 0 for size in value):
        raise pickle.UnpicklingError("a tensor whose size is no row of whole numbers")
    return value


def _first(data: object, *_: object) -> object:
    return data


def _dictionary(*args: object) -> dict[Any, Any]:
    pairs = args[-1] if args else ()
    entries = pairs.items() if isinstance(pairs, Mapping) else pairs if isinstance(pairs, (list, tuple)) else ()
    return dict(_with_plain_keys(entries))


def _with_plain_keys(pairs: Any) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in pairs if isinstance(key, _KEYS)]


def _sequence(values: object = ()) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, set, frozenset)) else []


def _size(values: object = ()) -> tuple[Any, ...]:
    return tuple(_sequence(values))


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes that are not spelled in Latin-1")
    return text.encode("latin1")


_KNOWN: Mapping[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _size,
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda *_: {},
    "builtins.dict": _dictionary,
    "builtins.list": _sequence,
    "builtins.tuple": _size,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "_codecs.encode": _encoded,
}
"""Results of calling these names, computed by this module."""

_LEFT_OUT = (
    pickle.EXT1,  # names by number, which only a program that registered them knows
    pickle.EXT2,
    pickle.EXT4,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
)


class _InertUnpickler(pickle._Unpickler):  # the C one has no hook for calls
    """Python's own unpickler with every opcode replaced that would call or change an object."""

    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Any]] = {
        code: read for code, read in pickle._Unpickler.dispatch.items() if bytes([code]) not in _LEFT_OUT
    }

    def __init__(self, file: BytesIO) -> None:
        # strings of Python 2 as torch.load reads them; those that are no text are of no use, and no reason to stop
        super().__init__(file, encoding="utf-8", errors="replace")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Name:
        """Return the name itself."""
        return Name(f"{module.replace('__builtin__', 'builtins')}.{name}")

    def persistent_load(self, pid: object) -> Storage | Name:
        """Return which storage or class is meant.

        Source: torch/serialization.py (PyTorch 2.14): ("storage", type, key, location, number of elements), and in
            files before 1.6 also the window, and ("module", class, its file, its source text) for a module's class.
        """
        if not isinstance(pid, tuple) or len(pid) < 2 or not isinstance(pid[1], Name):
            raise pickle.UnpicklingError("a reference to something outside that is no storage")
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage" or len(pid) < 5 or not isinstance(pid[2], str):
            raise pickle.UnpicklingError("a reference to something outside that is no storage")
        found = Storage(pid[1].text.rpartition(".")[2], pid[2], _window(pid[5] if len(pid) > 5 else None))
        self.storages.setdefault(found.key, found)
        return found

    def _made(self, called: object, args: object) -> object:
        if not isinstance(called, Name):
            raise UnsafeCheckpointError("what a call returned")
        check_is_harmless(called.text)
        given = args if isinstance(args, tuple) else (args,)
        known = _KNOWN.get(called.text)
        return Made(called.text, given) if known is None else known(*given)

    def _instantiate(self, klass: object, args: object) -> None:
        self.append(self._made(klass, tuple(args) if isinstance(args, list) else args))

    def load_reduce(self) -> None:
        """REDUCE and NEWOBJ: callable, or class, and arguments."""
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: class, arguments and keyword arguments."""
        keywords = self.stack.pop()
        self.load_reduce()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = keywords

    def load_build(self) -> None:
        """BUILD: the state of an object; that of a plain container (an OrderedDict's attributes) is passed over."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def load_append(self) -> None:
        """APPEND: one element."""
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        """APPENDS and ADDITEMS: the elements behind the mark."""
        self._extend(self.pop_mark())

    def _extend(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            target.elements.extend(elements)
        elif isinstance(target, list):
            target.extend(elements)
        else:
            raise pickle.UnpicklingError(f"elements for a {type(target).__name__}")

    def load_setitem(self) -> None:
        """SETITEM: key and value."""
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """SETITEMS: keys and values behind the mark."""
        self._update(self.pop_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self.stack[-1].items if isinstance(self.stack[-1], Made) else self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"items for a {type(target).__name__}")
        target.update(_with_plain_keys(zip(flat[::2], flat[1::2], strict=True)))

    def load_bytearray8(self) -> None:
        """BYTEARRAY8: as bytes, of which no more are taken than there are."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_dict(self) -> None:
        """DICT: keys and values behind the mark."""
        flat = self.pop_mark()
        self.append(dict(_with_plain_keys(zip(flat[::2], flat[1::2], strict=True))))

    def load_empty_set(self) -> None:
        """EMPTY_SET: a list, so that nothing is hashed."""
        self.append([])

    def load_frozenset(self) -> None:
        """FROZENSET: likewise."""
        elements = self.pop_mark()  # first: it replaces `append`
        self.append(elements)

    for _code, _read in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_reduce),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_appends),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.BYTEARRAY8, load_bytearray8),
        (pickle.DICT, load_dict),
        (pickle.EMPTY_SET, load_empty_set),
        (pickle.FROZENSET, load_frozenset),
    ):
        dispatch[_code[0]] = _read


def check_is_harmless(name: str) -> None:
    """Raise if a call of `name` ("module.name") acts on the machine, or is a method's: no value is made that way.

    Raises:
        UnsafeCheckpointError: With the name.
    """
    module, _, last = name.rpartition(".")
    root = name.partition(".")[0]
    is_method = last[:1].islower() and module.rpartition(".")[2][:1].isupper()
    if root in _HARMFUL_MODULES or is_method or (root == "builtins" and last not in _HARMLESS_BUILTINS):
        raise UnsafeCheckpointError(name)
