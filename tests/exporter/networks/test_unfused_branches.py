"""Branches that a library can fold are told of; timm itself says which they are, by folding them."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from exporter.models.load_model import load_any
from exporter.networks.unfused_branches import unfused_branches_told
from exporter.preprocessing.options import PreprocessingOptions

OPTIONS = PreprocessingOptions(input_size=32, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8"])
def test_timms_networks_of_branches(name):
    module = timm.create_model(name, num_classes=4).eval()
    folded = timm.utils.reparameterize_model(module)
    assert sum(isinstance(one, nn.Conv2d) for one in folded.modules()) < sum(
        isinstance(one, nn.Conv2d) for one in module.modules()
    )
    told = unfused_branches_told(module)
    assert told is not None
    assert "reparameterize_model" in told
    assert unfused_branches_told(folded) is None


@pytest.mark.parametrize("name", ["resnet18", "resnest14d", "ghostnet_100"])
def test_networks_without(name):
    assert unfused_branches_told(timm.create_model(name)) is None


def test_the_run_is_told():
    torch.manual_seed(0)
    module = timm.create_model("mobileone_s0", num_classes=4).eval()
    loaded = load_any(module, weights="DEFAULT", num_classes=None, preprocessing=OPTIONS)
    assert any("blocks, first stem, compute parallel branches" in told for told in loaded.warnings)
    loaded = load_any(
        timm.utils.reparameterize_model(module), weights="DEFAULT", num_classes=None, preprocessing=OPTIONS
    )
    assert not any("branches" in told for told in loaded.warnings)
