"""Blocks of parallel branches that training needs and inference does not: RepVGG, MobileOne, FastViT, ...

Their library folds the branches of a block into one convolution; the answers stay. An export of the network as it was
trained computes every branch. It is told, not done: INT8 can be better with the branches, and the folded weights are
the user's to check.

Source: Ding et al. 2021, arXiv:2101.03697 (RepVGG, structural re-parameterization); Vasu et al. 2023, arXiv:2206.04040
(MobileOne).
"""

from __future__ import annotations

from torch import nn


def unfused_branches_told(module: nn.Module) -> str | None:
    """Return what to say of a network whose blocks still have their branches; None where none has."""
    found = {path: how for path, child in module.named_modules() if (how := _how_to_fold(child)) is not None}
    if not found:
        return None
    first = next(iter(found))
    return (
        f"{len(found)} blocks, first {first}, compute parallel branches that one convolution each can stand for: "
        f"{found[first]} folds them, with the same answers, and the export of that network is smaller and often "
        "faster. Compare INT8 of both: it can be more accurate with the branches"
    )


def _how_to_fold(block: nn.Module) -> str | None:
    """Return what folds a block's branches; None where it has none, or they are folded already."""
    if hasattr(block, "reparam_conv"):  # timm's and Apple's blocks
        has_branches = block.reparam_conv is None and hasattr(block, "reparameterize")
        return "timm.utils.reparameterize_model(model)" if has_branches else None
    if hasattr(block, "switch_to_deploy"):  # RepVGG's own
        return None if hasattr(block, "rbr_reparam") else "switch_to_deploy() of each block"
    if hasattr(block, "reparameterize") and hasattr(block, "rbr_conv"):  # MobileOne's own
        return "reparameterize() of each block"
    return None
