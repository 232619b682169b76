"""`verify --bisect`: walk the blocks of every ONNX file that was judged, and name the one that broke.

The reference is the bundle's FP32 file where it answers like PyTorch itself, or the model of --against, exported here.
The images are the first of --val, which every prefix of mixes the classes evenly; without it the golden inputs, or the
package's photographs for a file without a bundle. Golden inputs may hide a break: those of a bundle that was calibrated
on noise, and exported without --val, are noise too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ExportError
from resnet_export.images.stream import batch_size_for
from resnet_export.verify_job.compare import Validation
from resnet_export.verify_job.sides import Reference
from resnet_export.verify_job.subject import Candidate, Subject
from runtimes.errors import RuntimeAdapterError
from runtimes.needed_library import needed_library
from runtimes.preprocessing.image_batches import image_batches
from runtimes.preprocessing.transform import Preprocessing, normalize
from runtimes.verification.gates import GateResult, Verdict
from runtimes.verification.report import FileReport

if TYPE_CHECKING:
    from onnx import ModelProto

NUM_IMAGES = 16
"""Of --val that blocks are compared on, as many as what a healthy block measures was found with (`bisect_blocks`): each
block is one more pass over them, on both sides."""

GATE = "blocks"
"""Name of the gate that a suspect block fails."""


def find_breaks(
    subject: Subject,
    reference: Reference | None,
    checks: Sequence[GateResult],
    preprocessing: Preprocessing | None,
    validation: Validation | None,
    *,
    against: bool,
) -> dict[str, dict[str, Any]]:
    """Return `bisect` of every file's entry, by the file's name.

    Raises:
        MissingDependencyError: If onnx is not installed.
    """
    needed_library("onnx", '--bisect reads graphs ({err}); pip install "resnet-export[export]"')  # before anything runs
    trusted, why_not = _trusted(reference, checks, against=against)
    images = [] if preprocessing is None else _images(subject, preprocessing, validation)
    found = {}
    for candidate in subject.candidates:
        reason = why_not or _why_not(candidate, reference, against=against)
        found[candidate.name] = _nothing(reason) if reason or trusted is None else _bisect(trusted, candidate, images)
    return found


def enter_breaks(found: Mapping[str, dict[str, Any]], files: Sequence[FileReport]) -> list[dict[str, str]]:
    """Lay `bisect` and the gate `blocks` into every file's entry, judged already; return the causes that were found."""
    entries = {file.name: file for file in files}
    for name, one in found.items():
        entries[name].bisect = one
        verdict = Verdict.FAIL if one["suspects"] else Verdict.PASS if one["blocks"] else Verdict.SKIPPED
        entries[name].gates.append(GateResult(GATE, "file", verdict, one["statement"]))
    return [{"file": name, "sentence": cause} for name, one in found.items() for cause in one["causes"]]


def _trusted(
    reference: Reference | None, checks: Sequence[GateResult], *, against: bool
) -> tuple[ModelProto | None, str]:
    """Return the reference's graph, or why there is none that can be trusted."""
    if reference is None:
        return None, "there is no reference whose blocks could be looked at; give --against MODEL"
    if against:
        from exporter.tracing.export import ExportConfig, export_loaded

        assert reference.loaded is not None
        return export_loaded(reference.loaded, ExportConfig()).onnx, ""
    assert reference.file is not None
    verdicts = {gate.name: gate.verdict for gate in checks}
    if verdicts.get("golden_outputs") is not Verdict.PASS:
        return None, (
            f"{reference.file.name}, whose blocks would be the reference, does not give PyTorch's stored answers; give "
            "--against MODEL --weights FILE"
        )
    from exporter.graph.read_model import read_model

    return read_model(reference.file), ""


def _why_not(candidate: Candidate, reference: Reference | None, *, against: bool) -> str:
    if candidate.is_engine:
        return "an engine gives no tensors between its blocks; bisect the ONNX file that it was built from"
    if not against and reference is not None and candidate.path == reference.file:
        return "it is the reference itself; --against MODEL --weights FILE bisects it too"
    return ""


def _images(subject: Subject, preprocessing: Preprocessing, validation: Validation | None) -> list[NDArray[np.float32]]:
    size = batch_size_for(preprocessing)
    if validation is not None:
        stream = image_batches(validation.paths[:NUM_IMAGES], preprocessing, batch_size=size, max_bad_fraction=1.0)
        return [batch.images for batch in stream]
    if subject.golden is None:
        from exporter.models.check_images import load_check_images

        images = load_check_images(preprocessing)
    elif subject.golden.inputs.dtype == np.uint8:
        images = normalize(preprocessing, subject.golden.inputs)
    else:
        images = subject.golden.inputs.astype(np.float32)
    return [images[first : first + size] for first in range(0, len(images), size)]


def _bisect(trusted: ModelProto, candidate: Candidate, images: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    from calibration.diagnostics.bisect_blocks import bisect_blocks
    from calibration.errors import CalibrationError
    from exporter.graph.read_model import read_model
    from runtimes.ort.exact_sessions import exact_side_by_side, open_exact

    model = read_model(candidate.path)
    try:
        found = bisect_blocks(
            trusted,
            model,
            images,
            precision=candidate.precision,
            open_exact=open_exact,
            side_by_side=exact_side_by_side(),
        )
    except (CalibrationError, ExportError, RuntimeAdapterError) as err:  # a foreign graph, NaN: the gates have judged
        return _nothing(f"blocks could not be compared: {err}")
    return found.to_json()


def _nothing(reason: str) -> dict[str, Any]:
    return {"num_images": 0, "statement": f"not bisected: {reason}", "suspects": [], "causes": [], "blocks": []}
