import pytest

from exporter.errors import UnknownModelError
from exporter.model_names import CIFAR_RESNETS, MODEL_NAMES, TORCHVISION_RESNETS, check_model_name


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_known_names_pass(name):
    check_model_name(name)


def test_every_name_once():
    assert len(set(MODEL_NAMES)) == len(MODEL_NAMES) == len(TORCHVISION_RESNETS) + len(CIFAR_RESNETS) == 11


def test_torchvision_has_the_models_that_are_said_to_be_its_own():
    import torchvision

    assert set(TORCHVISION_RESNETS) <= set(torchvision.models.list_models())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet5O", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("resnet", "resnet"),
        ("resnext50", "resnet50"),
        ("cifar_resnet21", "cifar_resnet20"),
        ("cifar-resnet-20", "cifar_resnet20"),
    ],
)
def test_near_names_are_suggested(typed, meant):
    with pytest.raises(UnknownModelError, match=f"unknown model '{typed}'; did you mean .*{meant}.*\\?") as caught:
        check_model_name(typed)
    assert str(caught.value).count(" or ") <= 2


@pytest.mark.parametrize("typed", ["vgg16", "", "x", "mobilenet_v3_large"])
def test_without_a_near_name_all_are_listed(typed):
    with pytest.raises(UnknownModelError, match=r"known models: resnet18, resnet34, .*, cifar_resnet1202"):
        check_model_name(typed)
