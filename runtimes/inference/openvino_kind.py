"""OpenVINO on the CPU as a runtime: both INT8 dialects in integer kernels, float32 otherwise."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

from runtimes.bundle.manifest import Manifest
from runtimes.bundle.precision import is_int8
from runtimes.inference.fixed_batch import fixed_batch
from runtimes.inference.model_description import ModelDescription, library_versions
from runtimes.inference.runtime_kind import Availability, Choice, Machine, Opened, OpenOptions, RuntimeKind
from runtimes.machine.installed_versions import installed_versions

if TYPE_CHECKING:
    from runtimes.openvino.adapter import OpenVinoRuntime

_IN_FLOAT = "INT8 is computed in float32, as written, no faster than FP32: {why}"
_PARTLY_FLOAT = "INT8: {integers} of {weighted} convolutions and fully connected layers compute in integers"
_OTHER_DIALECT = (
    "INT8 in TensorRT's dialect: OpenVINO computes ONNX Runtime's faster (9 to 14 % in docs/openvino.md, on a CPU with "
    "VNNI); for OpenVINO alone export with --target onnxruntime, and bench compares the two bundles here"
)
_NARROWED = {
    "int64": "INT64 is computed in 32 bits: numbers from 2147483648 on wrap",
    "uint64": "UINT64 is computed in 32 bits: numbers from 2147483648 on wrap",
    "float64": "DOUBLE is computed in float32",
}
"""Type of an input to what OpenVINO makes of it in silence. Source: measured, findings/openvino_int64_is_32_bits.sh."""

_ROUNDED = "layers that are not INT8 compute in {precision}, as asked: answers differ from the file's"


def open_openvino(choice: Choice, manifest: Manifest | None, options: OpenOptions) -> Opened:
    """Open an ONNX file in OpenVINO, on the CPU.

    `options.exact` is not heard: what is measured is what OpenVINO's users get.

    Raises:
        RuntimeAdapterError: If it cannot run as chosen; see `runtimes.load`.
    """
    from runtimes.openvino.adapter import OpenVinoRuntime

    runtime = OpenVinoRuntime(
        choice.path if options.model is None else options.model,
        num_threads=options.threads or 0,
        properties=options.provider_options,
    )
    size = fixed_batch(runtime)
    exact = is_int8(choice.precision) and not runtime.num_integer_layers
    for_tensorrt = manifest is not None and manifest.int8_for_tensorrt
    notes = _notes(choice, runtime, exact=exact, for_tensorrt=for_tensorrt)
    description = ModelDescription(
        file=str(choice.path),
        precision=choice.precision,
        runtime="OpenVINO",
        provider="OpenVINO CPU",
        node_providers=runtime.node_precisions,
        reason=choice.reason,
        batch="any" if size is None else f"{size} in the file: more in pieces, fewer padded",
        inputs=runtime.input_specs,
        outputs=runtime.output_specs,
        threads=options.threads,
        exact=exact,
        notes=notes,
        versions=library_versions(**installed_versions(("openvino",))),
    )
    narrowed = tuple(note for note in notes if note in _NARROWED.values())
    return Opened(runtime, description, notes if exact else narrowed, runtime.metadata)


def _notes(choice: Choice, runtime: OpenVinoRuntime, *, exact: bool, for_tensorrt: bool) -> tuple[str, ...]:
    from runtimes.openvino.node_precision import WEIGHTED

    notes = []
    if exact:
        notes.append(_IN_FLOAT.format(why=runtime.why_in_float))
    elif is_int8(choice.precision):
        weighted = sum(told.partition(" in ")[0] in WEIGHTED for told in runtime.node_precisions.values())
        notes.append(_PARTLY_FLOAT.format(integers=runtime.num_integer_layers, weighted=weighted))
        if for_tensorrt:
            notes.append(_OTHER_DIALECT)
    given = {spec.dtype for spec in runtime.input_specs.values()}
    notes += [note for dtype, note in _NARROWED.items() if dtype in given]
    if runtime.float_precision != "f32":
        notes.append(_ROUNDED.format(precision=runtime.float_precision))
    return tuple(notes)


_SCRIPT = """
import numpy, openvino
compiled = openvino.Core().compile_model(openvino.Core().read_model(bytes.fromhex(sys.argv[1]), b""), "CPU")
(result,) = compiled({0: numpy.ones((1, 1, 1, 1), "float32")}).values()
if result.item() != 2.0:
    sys.exit(f"answers wrongly: got {result.item()}, expected 2")
answer({"version": openvino.__version__})
"""


def _works(machine: Machine) -> Availability:
    """Compile and run a convolution, in a child of its own."""
    from runtimes.machine.probe_process import ask_python
    from runtimes.machine.provider_probe import PROBE_MODEL

    if find_spec("openvino") is None:
        return Availability(False, 'openvino: not installed; pip install "resnet-export[openvino]"')
    told = ask_python(_SCRIPT, PROBE_MODEL.hex())
    if told.reason:
        return Availability(False, f"openvino: {told.reason}")
    return Availability(True, f"OpenVINO {json.loads(told.stdout)['version'].partition('-')[0]}")


OPENVINO = RuntimeKind(
    name="openvino",
    title="OpenVINO on the CPU",
    computed_by="openvino",
    open=open_openvino,
    probe=_works,
    preferred=("int8", "fp32"),
    preferred_of_onnxruntime=("int8", "fp32"),
    where="the CPU, in OpenVINO, as asked",
    why={
        "int8": "INT8, which OpenVINO runs in integer kernels, whichever dialect it is in",
        "fp32": "FP32, the bundle having no INT8",
    },
)
