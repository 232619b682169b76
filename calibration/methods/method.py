"""The ways from histogram to amax, found by name; another one is one more subclass, see docs/extending.

The command's words are those of `METHODS`. A method from outside is registered by `METHODS.register`, or declared as an
entry point of the group "resnet_export.calibration_methods".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import CalibrationError
from calibration.methods.amax import INT8, Levels
from runtimes.registry import Registry

if TYPE_CHECKING:
    from calibration.methods.histogram import Histogram


class Method(ABC):
    """One way. Subclasses are frozen dataclasses whose fields, all with defaults, are its options.

    Attributes:
        name: The command's word.
        revision: Raised when it gives other ranges than before: calibrations in the cache are found by it.
        needs_few_samples: Whether a few values of each tensor and image do for the histogram, as where only the largest
            counts, which is always exact.
    """

    __slots__ = ()
    name: ClassVar[str]
    revision: ClassVar[int] = 1
    needs_few_samples: ClassVar[bool] = False

    @abstractmethod
    def amax(self, histogram: Histogram, levels: Levels = INT8) -> float:
        """Return the largest |x| that is kept of one tensor.

        Args:
            histogram: Counts of |x|.
            levels: Which levels there are.

        Returns:
            The amax, in tensor units, > 0.

        Raises:
            EmptyHistogramError: If the histogram holds no value.
        """


METHODS: Registry[type[Method]] = Registry(
    "calibration method",
    type,
    group="resnet_export.calibration_methods",
    builtin={
        "max": "calibration.methods.builtin_methods:Max",
        "percentile": "calibration.methods.builtin_methods:Percentile",
        "entropy": "calibration.methods.builtin_methods:Entropy",
        "mse": "calibration.methods.builtin_methods:MeanSquaredError",
        "auto": "calibration.methods.builtin_methods:Auto",
    },
)
"""The command's word to the class."""


def method_from_name(name: str) -> Method:
    """Return the method a word of the command stands for, with its default options.

    Args:
        name: A key of `METHODS`.

    Raises:
        ValueError: If it is another word; the message lists them.
    """
    return METHODS.named(name)()


def describe(method: Method) -> dict[str, Any]:
    """Return the method as JSON holds it: its word as "name", then its options."""
    revision = {} if method.revision == 1 else {"revision": method.revision}
    return {"name": method.name, **revision, **asdict(method)}  # type: ignore[call-overload]  # all are dataclasses


def amax(method: Method, histogram: Histogram, levels: Levels = INT8) -> float:
    """Return what `method.amax` gives; see there.

    Raises:
        TypeError: If `method` is none, such as a word of the command.
        CalibrationError: If it gives no amax, which is finite and above 0.
    """
    if not isinstance(method, Method):
        raise TypeError(f"got {method!r}, expected a calibration method; see method_from_name()")
    found = float(method.amax(histogram, levels))
    if not 0.0 < found < float("inf"):
        raise CalibrationError(f"method {method.name!r} gave an amax of {found}, expected a finite number above 0")
    return found
