"""What a report of `verify` says of the run itself: tool, machine, subject, reference and images."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from exporter.bundle.tool_entry import tool_entry
from resnet_export.verify_job.compare import Compared, Validation
from resnet_export.verify_job.sides import Reference
from resnet_export.verify_job.subject import Subject
from runtimes.machine.installed_versions import installed_versions
from runtimes.verification.report import Setting

ASKED = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "onnx", "torch", "tensorrt", "tensorrt-rtx")
"""Libraries whose versions the report says."""

STORED = "PyTorch's answers stored in the bundle"


def setting(
    subject: Subject,
    reference: Reference | None,
    compared: Sequence[Compared],
    validation: Validation | None,
    *,
    against: bool,
) -> Setting:
    """Return what the report says of the run."""
    golden = None
    if subject.golden is not None:
        golden = {"num_images": len(subject.golden.inputs), "source": "golden.npz, PyTorch's answers at export"}
    val = None
    if validation is not None:
        classes = validation.classes
        val = {
            "root": str(validation.root),
            "source": validation.shown,
            "num_images": len(validation.paths),
            "num_images_there": validation.num_images,
            "labelled": classes is not None,
            "matched": None if classes is None else classes.how,
        }
    here = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    return Setting(
        tool=tool_entry(),
        environment=here | installed_versions(ASKED),
        subject=subject.to_json(),
        reference={
            "name": "PyTorch" if reference is None else reference.name,
            "statement": STORED if reference is None or not (val or against) else reference.statement,
        },
        images={"val": val, "golden": golden, "statement": _images_statement(compared, validation)},
        labels=subject.labels or (reference.loaded.labels if reference is not None and reference.loaded else None),
    )


def _images_statement(compared: Sequence[Compared], validation: Validation | None) -> str:
    words = " and ".join(part.images.words for part in compared)
    if validation is not None:
        return f"compared on {words}"
    kind = "golden inputs only" if compared and compared[0].images.on == "golden" else "photographs of the package only"
    return (
        f"compared on {words}: {kind}; they show that files compute the same, not how accurate they are. "
        "--val DIR compares on images of yours"
    )
