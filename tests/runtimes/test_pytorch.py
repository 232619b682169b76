"""TorchRuntime: what is its own beside the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from runtimes.errors import InputMismatchError, RuntimeAdapterError
from runtimes.protocol import TensorSpec
from runtimes.pytorch import TorchRuntime

IMAGES = np.random.default_rng(20260109).normal(size=(2, 3, 8, 8)).astype(np.float32)


def network(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode, the module trains; call module\.eval\(\) first"):
        TorchRuntime(network())


@pytest.mark.parametrize("kind", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.Dropout(), nn.Dropout2d()])
def test_a_part_in_training_mode_is_named(kind):
    module = network(kind).eval()
    module[1].train()
    with pytest.raises(ValueError, match="1 trains"):
        TorchRuntime(module)


def test_training_mode_does_not_matter_in_what_has_none():
    """Folding leaves such a part behind: nn.Identity is born in training mode."""
    module = network().eval()
    module.append(nn.Identity())
    assert module[-1].training
    TorchRuntime(module).close()


def test_batchnorm_statistics_do_not_change():
    module = network(nn.BatchNorm2d(4)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    TorchRuntime(module).run({"input": IMAGES})
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_no_gradients_are_recorded():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), x.requires_grad))
            return x

    TorchRuntime(network(Spy()).eval()).run({"input": IMAGES})
    assert seen == [(False, True, False)]
    assert torch.is_grad_enabled()


def test_the_callers_array_is_not_aliased():
    """Neither by an operation in place nor by an output that is the input."""

    class Grab(nn.Module):
        def forward(self, x):
            x.mul_(0.0)
            return x.flatten(1)

    images = IMAGES.copy()
    with TorchRuntime(Grab().eval()) as runtime:
        logits = runtime.run({"input": images})["logits"]
    assert np.array_equal(images, IMAGES)
    logits += 1
    assert np.array_equal(images, IMAGES)


def test_a_module_without_parameters_runs_on_the_cpu():
    with TorchRuntime(nn.Flatten().eval()) as runtime:
        assert np.array_equal(runtime.run({"input": IMAGES})["logits"], IMAGES.reshape(2, -1))


def test_names_and_input_size():
    with TorchRuntime(network().eval(), input_size=(8, 9), input_name="images", output_name="scores") as runtime:
        assert dict(runtime.input_specs) == {"images": TensorSpec("float32", (None, None, 8, 9))}
        assert list(runtime.output_specs) == ["scores"]
        with pytest.raises(InputMismatchError, match=r"expected float32 \[N, N, 8, 9\]"):
            runtime.run({"images": IMAGES})
        assert list(runtime.run({"images": np.zeros((1, 3, 8, 9), np.float32)})) == ["scores"]


def test_without_an_input_size_any_is_taken():
    with TorchRuntime(network().eval()) as runtime:
        for side in (8, 13):
            assert runtime.run({"input": np.zeros((1, 3, side, side), np.float32)})["logits"].shape == (1, 4)


def test_a_module_of_several_outputs():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x + 1

    with TorchRuntime(Two().eval(), output_names=("mean", "map")) as runtime:
        outputs = runtime.run({"input": np.ones((2, 3, 4, 4), np.float32)})
    assert list(outputs) == list(runtime.output_specs) == ["mean", "map"]
    assert (outputs["mean"].shape, outputs["map"].shape) == ((2, 3), (2, 3, 4, 4))
    assert (outputs["map"] == 2).all()


def test_close_releases_the_module():
    import gc
    import weakref

    module = network().eval()
    reference = weakref.ref(module)
    runtime = TorchRuntime(module)
    del module
    gc.collect()
    assert reference() is not None
    runtime.close()
    gc.collect()
    assert reference() is None
    with pytest.raises(RuntimeAdapterError, match="closed"):
        runtime.run({"input": IMAGES})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_on_a_gpu():
    module = network().eval()
    expected = TorchRuntime(module).run({"input": IMAGES})["logits"]
    got = TorchRuntime(module.cuda()).run({"input": IMAGES})["logits"]
    assert np.allclose(got, expected, atol=1e-3)
