"""TensorSpec and check_inputs: the one place where names, dtypes and shapes are checked."""

from __future__ import annotations

import numpy as np
import pytest

from runtimes.errors import InputMismatchError
from runtimes.protocol import TensorSpec, check_inputs

FOREIGN_FLOAT = np.dtype(np.float32).newbyteorder("S").str
SPEC = TensorSpec("float32", (None, 3, 4, 5))


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_spec_as_messages_show_it():
    assert str(SPEC) == "float32 [N, 3, 4, 5]"
    assert str(TensorSpec("int64", ())) == "int64 []"


@pytest.mark.parametrize(
    ("array", "admitted"),
    [
        (zeros(1, 3, 4, 5), True),
        (zeros(9, 3, 4, 5), True),
        (zeros(5, 4, 3, 1).T, True),
        (zeros(1, 3, 4, 6), False),
        (zeros(1, 3, 4), False),
        (zeros(1, 3, 4, 5, 1), False),
        (zeros(1, 3, 4, 5, dtype="float64"), False),
        (zeros(1, 3, 4, 5, dtype="int32"), False),
        (zeros(1, 3, 4, 5, dtype=">f4"), False),
    ],
)
def test_admits(array, admitted):
    assert SPEC.admits(array) is admitted


def test_a_scalar():
    assert TensorSpec("float32", ()).admits(np.array(1, np.float32))
    assert not TensorSpec("float32", ()).admits(zeros(1))


def test_right_inputs_pass():
    check_inputs({"a": SPEC, "b": TensorSpec("int64", (None,))}, {"b": zeros(2, dtype="int64"), "a": zeros(1, 3, 4, 5)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'a' is missing; got \[\], expected \['a'\]"),
        ({"A": zeros(1, 3, 4, 5)}, r"input 'a' is missing; got \['A'\], expected \['a'\]"),
        ({"a": zeros(1, 3, 4, 5), "z": zeros(1)}, r"input 'z' is not one of the model's: \['a'\]"),
        (
            {"a": zeros(8, 3, 6, 6, dtype="float64")},
            r"input 'a': got float64 \[8, 3, 6, 6\], expected float32 \[N, 3, 4, 5\]; resize and cast before run\(\)",
        ),
        (
            {"a": zeros(1, 3, 4, 5, dtype=FOREIGN_FLOAT)},
            rf"input 'a': got {FOREIGN_FLOAT}, float32 in the byte order .*array\.astype\(np\.float32\)",
        ),
        ({"a": zeros(8, 3, 6, 6, dtype=FOREIGN_FLOAT)}, r"got float32 \[8, 3, 6, 6\], expected float32 \[N, 3, 4, 5\]"),
        ({"a": [[1.0]]}, r"input 'a': got list, expected a NumPy array, float32 \[N, 3, 4, 5\]"),
        ({"a": None}, "input 'a': got NoneType"),
        ({"a": zeros(0, 3, 4, 5)}, r"input 'a': got an empty array \[0, 3, 4, 5\]"),
    ],
)
def test_wrong_inputs_say_got_and_expected(inputs, message):
    with pytest.raises(InputMismatchError, match=message) as caught:
        check_inputs({"a": SPEC}, inputs)
    assert isinstance(caught.value, ValueError)
