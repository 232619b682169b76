"""Reports to look at: `html_report` makes one self-contained page of what `verify` found.

page        the dictionary of `runtimes.verification.report`, and what the bundle says, to HTML
evidence    calibration.json, report.json and the images of answers that differ
plots       matplotlib to inline SVG, in the page's own colors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimes.lazy_names import lazy_names

if TYPE_CHECKING:
    from runtimes.verification.html.page import html_report

__all__ = ["check_libraries", "html_report"]


def check_libraries() -> None:
    """Raise unless the libraries of the extra `report` are installed.

    Raises:
        MissingDependencyError: Naming the library and the extra.
    """
    from importlib.util import find_spec

    from runtimes.errors import MissingDependencyError

    for name in ("jinja2", "matplotlib"):
        if find_spec(name) is None:
            raise MissingDependencyError(f'the HTML report needs {name}; pip install "resnet-export[report]"')


__getattr__ = lazy_names(__name__, {"runtimes.verification.html.page": ("html_report",)})
