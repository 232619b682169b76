import pytest

from exporter.errors import ExportError
from exporter.models.loaded_model import ModelRequest, check_labels, is_weights_file


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "weights",
    [
        "w.pth",
        "run/best",
        "/data/w.safetensors",
        "../w.pt",
        "best.epoch3.tar",
        "My_Weights.pth.tar",
        "w.h5",
        "x_Weights.V1/",
    ],
)
def test_files(weights):
    assert is_weights_file(weights)


@pytest.mark.parametrize(
    "weights",
    ["DEFAULT", "random", "IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "ResNet18_Weights.DEFAULT", "default"],
)
def test_words(weights):
    assert not is_weights_file(weights)


def test_word_that_is_a_file_here(tmp_path):
    for name in ("checkpoint", "ResNet50_Weights.IMAGENET1K_V2"):
        assert not is_weights_file(name)
        (tmp_path / name).touch()
        assert is_weights_file(name)


@pytest.mark.parametrize("weights", ["DEFAULT", "random"])
def test_keywords_are_no_files_even_where_there_is_one(tmp_path, weights):
    (tmp_path / weights).touch()
    assert not is_weights_file(weights)
    assert is_weights_file(f"./{weights}")


def test_labels_that_fit():
    check_labels(("a", "b"), 2, "labels.txt")


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "b", "c")])
def test_wrong_number_of_labels(labels):
    with pytest.raises(ExportError, match=rf"^labels.txt: got {len(labels)} labels, expected 2"):
        check_labels(labels, 2, "labels.txt")


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_empty_label_is_named_by_its_place(empty):
    with pytest.raises(ExportError, match=r"^labels.txt: label 1 is empty"):
        check_labels(("a", empty, empty), 3, "labels.txt")


@pytest.mark.parametrize("num_classes", [0, -1])
def test_no_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=f"num_classes: got {num_classes}, expected at least 1"):
        ModelRequest("resnet18", num_classes=num_classes)


def test_request_takes_published_weights_unless_told():
    assert ModelRequest("resnet18") == ModelRequest("resnet18", "DEFAULT", None)
    assert ModelRequest("resnet18", num_classes=1).num_classes == 1
