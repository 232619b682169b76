"""The demo's ResNet-20 cut to one block a stage, its head fitted anew: a trained network at a third of the cost."""

from __future__ import annotations

from pathlib import Path

from exporter.networks.cifar_resnet import CifarResNet

DIGITS_WEIGHTS = Path(__file__).parents[1] / "examples" / "digits" / "resnet20_digits.safetensors"
MODEL = "small_digits:SmallResNet"


class SmallResNet(CifarResNet):
    """A CIFAR ResNet-8, which is no model by name."""

    def __init__(self) -> None:
        super().__init__(8)


def write_weights(path: Path, *, digits: Path) -> Path:
    """Take each stage's first block; fit the head to the features of the calibration images by logistic regression."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from sklearn.linear_model import LogisticRegression

    from exporter.models.load_model import load_model
    from exporter.models.loaded_model import ModelRequest
    from runtimes import preprocess, read_image

    network = SmallResNet().eval()
    state = load_file(DIGITS_WEIGHTS)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    preprocessing = load_model(ModelRequest("cifar_resnet20", str(DIGITS_WEIGHTS))).preprocessing
    files = sorted((digits / "calib").rglob("*.png"))
    head, network.fc = network.fc, torch.nn.Identity()
    images = torch.stack([torch.from_numpy(preprocess(preprocessing, read_image(file))) for file in files])
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what it sees
    with torch.no_grad():
        network.train()(images)
        features = network.eval()(images)
        fitted = LogisticRegression(max_iter=200).fit(features, [int(file.parent.name) for file in files])
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    network.fc = head
    with safe_open(DIGITS_WEIGHTS, "pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "model"}
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path, metadata)
    return path
