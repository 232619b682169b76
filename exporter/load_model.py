"""MODEL and its weights -> a PyTorch module in evaluation mode with everything known about it.

Each source (torchvision, our CIFAR ResNets; later timm, own networks, ONNX files) is a module with one function
`load(request) -> LoadedModel`. This one picks the source by name.
"""

from __future__ import annotations

from exporter.loaded_model import LoadedModel, ModelRequest
from exporter.model_names import CIFAR_RESNETS, check_model_name
from runtimes.errors import MissingDependencyError


def load_model(request: ModelRequest) -> LoadedModel:
    """Build the network and load its weights.

    Raises:
        UnknownModelError: If there is no such model.
        WeightsError: If the weights are missing, do not fit, or are not finite.
        MissingDependencyError: If torch or torchvision is not installed.
    """
    check_model_name(request.name)
    try:
        if request.name in CIFAR_RESNETS:
            from exporter.cifar_models import load
        else:
            from exporter.torchvision_models import load
    except ImportError as err:
        raise MissingDependencyError(
            f'exporting needs PyTorch and torchvision ({err}); pip install "resnet-export[export]"'
        ) from err
    return load(request)
