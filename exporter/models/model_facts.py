"""Count what `model_table.json` holds. `python -m models.model_facts` (`make model-table`) writes the file anew.

MACs are counted on PyTorch's "meta" device by `torch.utils.flop_counter`, which counts convolutions, matrix products
and attention; one MAC is two of its floating-point operations.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exporter.checkpoints.weight_layout import layout_of, without_values
from exporter.models.architecture import Architecture
from exporter.models.loaded_model import RANDOM_WEIGHTS, ModelRequest
from exporter.models.model_names import MODEL_NAMES, OWN, TIMM, TORCHVISION, family_of
from exporter.models.model_table import TABLE_FILE, ModelFacts

_LIBRARIES = ("torch", "torchvision", "timm")


def count_facts(name: str) -> ModelFacts:
    """Return the facts of one model; it is built on the "meta" device, without values."""
    architecture = architecture_of(name)
    assert architecture.preprocessing is not None  # of a known model it is never None
    input_size = architecture.preprocessing.input_size
    module = without_values(architecture.build, architecture.num_classes)
    layout = layout_of(architecture.build)
    family = family_of(name)
    assert family is not None, name  # of MODEL_NAMES
    return ModelFacts(
        name=name,
        family=family.name,
        source=family.source,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=count_macs(module, input_size),
        input_size=input_size,
        top1=_published_top1(name, family.source),
        fingerprint=layout.fingerprint,
        body=layout.body_fingerprint,
        classifier=layout.classifier,
    )


def architecture_of(name: str) -> Architecture:
    """Return the architecture of a known model, without building it."""
    request = ModelRequest(name, RANDOM_WEIGHTS)
    source = request.reference.source
    if source == TORCHVISION:
        from exporter.models.torchvision_source import architecture_for
    elif source == TIMM:
        from exporter.models.timm_source import architecture_for
    else:
        assert source == OWN
        from exporter.models.builtin_source import architecture_for
    return architecture_for(request)


def count_macs(module: nn.Module, input_size: tuple[int, int]) -> int:
    """Return the multiply-accumulate operations of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, *input_size, device="meta"))
    return int(counter.get_total_flops()) // 2


def _published_top1(name: str, source: str) -> dict[str, float]:
    """Return torchvision's figures; timm's package carries none."""
    if source != TORCHVISION:
        return {}
    import torchvision

    members: Any = torchvision.models.get_model_weights(name)
    return {member.name: member.meta["_metrics"]["ImageNet-1K"]["acc@1"] for member in members}


def main() -> int:
    """Write the table beside this module."""
    rows = []
    for name in MODEL_NAMES:
        print(name, file=sys.stderr)
        rows.append(count_facts(name).to_json())
    versions = {library: metadata.version(library).partition("+")[0] for library in _LIBRARIES}
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    text = f'{{\n  "made_with": {json.dumps(versions)},\n  "models": [\n{lines}\n  ]\n}}\n'
    Path(__file__).with_name(TABLE_FILE).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
