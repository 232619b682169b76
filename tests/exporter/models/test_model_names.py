import pytest

from exporter.errors import UnknownModelError
from exporter.models.model_names import (
    ALIASES,
    AUTO,
    FAMILIES,
    MODEL_NAMES,
    OWN,
    PYTHON_OBJECT,
    TIMM,
    TORCHVISION,
    ModelReference,
    check_family,
    folder_name,
    parse_model,
)


@pytest.mark.parametrize("name", [*MODEL_NAMES, *ALIASES, "auto"])
def test_known_names_pass(name):
    parse_model(name)


def test_every_name_once():
    assert len(set(MODEL_NAMES)) == len(MODEL_NAMES)
    assert not set(ALIASES) & set(MODEL_NAMES)
    assert set(ALIASES.values()) <= set(MODEL_NAMES)
    assert len({family.name for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("source", [TORCHVISION, TIMM])
def test_the_libraries_have_the_models_that_are_said_to_be_their_own(source):
    import timm
    import torchvision

    names = {name for family in FAMILIES.values() if family.source == source for name in family.models}
    if source == TORCHVISION:
        assert names <= set(torchvision.models.list_models(module=torchvision.models))
    else:
        assert {name for name in names if "." not in name} <= set(timm.list_models())
        assert {name for name in names if "." in name} <= set(timm.list_pretrained())


@pytest.mark.parametrize(
    ("text", "source", "name", "model_id"),
    [
        ("resnet18", TORCHVISION, "resnet18", "resnet18"),
        ("torchvision:vit_b_16", TORCHVISION, "vit_b_16", "vit_b_16"),
        ("resnet20", OWN, "cifar_resnet20", "cifar_resnet20"),
        ("cifar_resnet56_b", OWN, "cifar_resnet56", "cifar_resnet56"),
        ("cifar_resnet56_a", OWN, "cifar_resnet56_a", "cifar_resnet56_a"),
        ("seresnet50", TIMM, "seresnet50", "seresnet50"),
        ("hiera_tiny", TIMM, "hiera_tiny_224", "hiera_tiny_224"),
        ("timm:resnet50.a1_in1k", TIMM, "resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("timm:hf-hub:org/name", TIMM, "hf-hub:org/name", "name"),
        ("timm:hf-hub:org/..", TIMM, "hf-hub:org/..", "timm"),
        ("timm:local-dir:/data/my model", TIMM, "local-dir:/data/my model", "my_model"),
        ("mine.models:build", PYTHON_OBJECT, "mine.models:build", "mine.models.build"),
        ("net:Net.small", PYTHON_OBJECT, "net:Net.small", "net.Net.small"),
        ("auto", AUTO, "auto", "auto"),
    ],
)
def test_what_a_model_means(text, source, name, model_id):
    assert parse_model(text) == ModelReference(source, name)
    assert parse_model(text).model_id == model_id


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet5O", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("resnext50", "resnext50_32x4d"),
        ("vgg16", "vgg16_bn"),
        ("cifar_resnet21", "cifar_resnet20"),
        ("cifar-resnet-20", "cifar_resnet20"),
        ("preact_resnet-18", "preact_resnet18"),
    ],
)
def test_near_names_are_suggested(typed, meant):
    with pytest.raises(UnknownModelError, match=f"unknown model '{typed}'; did you mean .*{meant}.*\\?") as caught:
        parse_model(typed)
    assert str(caught.value).partition("?")[0].count(" or ") <= 2


def test_a_folder_is_told_as_such(tmp_path):
    """Of a bundle people type the folder, which other commands take."""
    (tmp_path / "resnet18-int8").mkdir()
    with pytest.raises(UnknownModelError, match=r"'.*resnet18-int8' is a folder, .* of a bundle give its model.onnx"):
        parse_model(str(tmp_path / "resnet18-int8"))


@pytest.mark.parametrize("typed", ["", "x", "yolo"])
def test_without_a_near_name_the_families_are_listed(typed):
    with pytest.raises(UnknownModelError, match=r"known families: resnet, .*, hiera; any other as torchvision:NAME"):
        parse_model(typed)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tim:resnet50", "unknown source 'tim' .*did you mean timm:"),
        ("torchvison:resnet50", "unknown source 'torchvison' .*did you mean torchvision:"),
        ("timm:", "names no model"),
        ("torchvision: ", "names no model"),
        ("a b:c", "a colon separates source and name"),
        ("models.py:build", "without .py"),
        ("models.py", "package.module:callable, without .py"),
        ("mine:", "a colon separates"),
        ("C:\\models\\x", "a colon separates"),
        ("mine:build()", "a colon separates"),
    ],
)
def test_what_a_colon_cannot_mean(typed, message):
    with pytest.raises(UnknownModelError, match=message):
        parse_model(typed)


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        ("resnet50", "random", "resnet50"),
        ("auto", "runs/best.pth", "best"),
        ("timm:hf-hub:org/name", "DEFAULT", "name"),
        ("no-such", "DEFAULT", "no-such"),
    ],
)
def test_name_of_a_bundles_folder(text, weights, expected):
    assert folder_name(text, weights) == expected


def test_families():
    check_family("preact_resnet")
    with pytest.raises(UnknownModelError, match="unknown family 'resnetx'; did you mean resne"):
        check_family("resnetx")
    with pytest.raises(UnknownModelError, match="known families: resnet, wide_resnet"):
        check_family("???")
