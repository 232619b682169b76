"""The precisions of a bundle's files: their names and how a command asks for them."""

from __future__ import annotations

LOWEST_FIRST = ("int8-fp16", "int8", "fp16", "fp32")


def is_int8(precision: str | None) -> bool:
    """Tell whether a file of this precision holds Q/DQ nodes."""
    return precision is not None and precision.startswith("int8")


def option_words(precision: str) -> str:
    """Return the options that ask for a precision, such as "--int8 --fp16"."""
    return " ".join(f"--{word}" for word in precision.split("-"))
