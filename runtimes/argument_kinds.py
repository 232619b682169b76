"""Arguments of public functions against their annotations: what is of another kind is told by its name, at the call.

A flag of "no" would count as yes, a name as a list of letters. Which values are of use is asked elsewhere. NumPy warns
in them and never raises, whatever the caller has told it (`np.seterr`): what overflows is looked for.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar, Union, cast

import numpy as np

from runtimes.needed_library import naming_missing_libraries

StrPath = Union[str, "os.PathLike[str]"]
Function = TypeVar("Function", bound=Callable[..., object])

Count = int
"""Of a parameter: a whole number from 1 on."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    is_list = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
    return is_list and all(isinstance(name, str) for name in value)  # type: ignore[attr-defined]


def _are_places(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(_is_whole(number) and number >= 0 for number in value)


_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "None": (lambda value: value is None, ""),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "StrPath": (lambda v: isinstance(v, (str, os.PathLike)) and isinstance(os.fspath(v), str), "a text or path"),
    "Sequence[str]": (_are_names, "a list of names"),
    "int": (_is_whole, "a whole number"),
    "Count": (lambda value: _is_whole(value) and cast("int", value) >= 1, "a whole number >= 1"),
    "float": (lambda value: _is_whole(value) or isinstance(value, float), "a number"),
    "tuple[int, ...]": (_are_places, "whole numbers >= 0"),
    "Listener": (callable, "a function of an event"),
}


def checked_kinds(function: Function) -> Function:
    """Return `function` with its arguments checked where each kind of their annotation is known here.

    A library that it needs and that is not installed is told with what to install.

    Raises:
        TypeError, ValueError: At the call: the argument, what was got and what was expected.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters
    kinds = {name: str(parameter.annotation).split(" | ") for name, parameter in parameters.items()}
    known = {name: words for name, words in kinds.items() if all(word in _KINDS for word in words)}

    @functools.wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        bound = signature.bind(*args, **kwargs).arguments
        for name in known.keys() & bound.keys():
            several = parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            _check(name, bound[name] if several else (bound[name],), known[name])
        warning = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        with naming_missing_libraries(), warning:
            return function(*args, **kwargs)

    return checked  # type: ignore[return-value]  # the same signature


def _check(name: str, values: Iterable[object], words: Collection[str]) -> None:
    for value in values:
        if not any(_KINDS[word][0](value) for word in words):
            expected = " or ".join(filter(None, (_KINDS[word][1] for word in words)))
            error = ValueError if "Count" in words and _is_whole(value) else TypeError
            raise error(f"{name}: got {reprlib.repr(value)}, expected {expected}")
