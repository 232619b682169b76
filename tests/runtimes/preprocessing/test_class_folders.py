"""match_folders: each rule, each refusal, and ImageNet's own labels from torchvision."""

from __future__ import annotations

import dataclasses
import re

import pytest
from torchvision.models import ResNet50_Weights
from torchvision.models._meta import _IMAGENET_CATEGORIES as IMAGENET_LABELS

from runtimes.errors import ImageFolderError
from runtimes.preprocessing.class_folders import match_folders

ANIMALS = ("cat", "dog", "Great White Shark", "cock-of-the-rock")
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def test_by_name_in_any_order():
    match = match_folders(["dog", "cat"], ("cat", "dog"), 2)
    assert match.index_of == {"cat": 0, "dog": 1}
    assert "2 class folders by the labels' names" in match.how


@pytest.mark.parametrize(
    "folder", ["great_white_shark", "Great-White-Shark", "GREAT  white_-_SHARK", "_great white shark "]
)
def test_capitals_and_separators_do_not_count(folder):
    assert match_folders([folder], ANIMALS, 4).index_of == {folder: 2}


def test_a_subset_of_the_labels():
    assert match_folders(["cock_of_the_rock", "dog"], ANIMALS, 4).index_of == {
        "cock_of_the_rock": 3,
        "dog": 1,
    }


def test_accents_written_in_two_ways():
    assert match_folders(["cafe\u0301"], ("caf\u00e9", "tea"), 2).index_of == {"cafe\u0301": 0}


def test_exact_spelling_tells_letters_apart():
    """Letters, as in EMNIST: "a" and "A" are two classes."""
    assert match_folders(["a", "A"], ("A", "a"), 2).index_of == {"a": 1, "A": 0}


def test_names_win_over_sorted_order():
    assert match_folders(["a", "b", "c"], ("c", "b", "a"), 3).index_of == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize("labels", [None, tuple(IMAGENET_LABELS)])
def test_imagenet_subset_by_synset(labels):
    match = match_folders(list(IMAGENETTE), labels, 1000)
    assert match.index_of == IMAGENETTE
    assert "synset" in match.how


def test_imagenette_ids_mean_their_labels():
    labels = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert labels == list(IMAGENET_LABELS)
    assert labels[IMAGENETTE["n01440764"]] == "tench"
    assert labels[IMAGENETTE["n03888257"]] == "parachute"


def test_imagenet_label_names():
    match = match_folders(["golden_retriever", "tench"], IMAGENET_LABELS, 1000)
    assert match.index_of == {"golden_retriever": 207, "tench": 0}


@pytest.mark.parametrize(("folder", "classes"), [("crane", "134 and 517"), ("Maillot", "638 and 639")])
def test_labels_that_imagenet_has_twice(folder, classes):
    """The original list; torchvision's says "crane bird" and "maillot tank suit"."""
    labels = list(IMAGENET_LABELS)
    labels[134], labels[639] = "crane", "maillot"
    assert match_folders(["tench"], labels, 1000).index_of == {"tench": 0}
    expected = rf"more than one class: '{folder}'; '{folder}' is the label of classes {classes}.*--labels"
    with pytest.raises(ImageFolderError, match=expected):
        match_folders(["tench", folder], labels, 1000)


def test_cardigan_is_a_dog_and_a_garment():
    """Told apart only if all folders follow the labels' spelling, capitals included."""
    match = match_folders(["Cardigan", "cardigan", "tench"], IMAGENET_LABELS, 1000)
    assert match.index_of == {"Cardigan": 264, "cardigan": 474, "tench": 0}
    with pytest.raises(ImageFolderError, match=r"more than one class: 'Cardigan'.*classes 264 and 474"):
        match_folders(["Cardigan", "Tench"], IMAGENET_LABELS, 1000)


def test_synsets_need_a_model_of_1000_classes():
    with pytest.raises(ImageFolderError, match=r"got 10 class folders .* model of 12 classes"):
        match_folders(list(IMAGENETTE), None, 12)
    match = match_folders(list(IMAGENETTE), None, 10)
    assert match.index_of == {name: index for index, name in enumerate(sorted(IMAGENETTE))}
    assert "sorted order" in match.how


def test_sorted_order_without_labels():
    match = match_folders(["b", "a", "B"], None, 3)
    assert match.index_of == {"B": 0, "a": 1, "b": 2}
    assert match.how.endswith("ImageFolder does, because the model's classes have no names, only numbers.")


def test_sorted_order_when_no_folder_is_a_label():
    match = match_folders(["x", "y"], ("cat", "dog"), 2)
    assert match.index_of == {"x": 0, "y": 1}
    assert "none of them is a label" in match.how


def test_sorted_order_of_numbers_says_how_it_sorts():
    match = match_folders([str(number) for number in range(11)], None, 11)
    assert match.index_of["10"] == 2
    assert "not as numbers: '0', '1', '10', '2', '3' and 6 more" in match.how
    assert "not as numbers: '10', '9'." in match_folders(["9", "10"], None, 2).how
    assert "as text" not in match_folders([str(number) for number in range(10)], None, 10).how


@pytest.mark.parametrize("num_folders", [2, 4])
def test_some_labels_never_fall_back_to_sorted_order(num_folders):
    folders = ["cat", "horse", "dog", "zebra"][:num_folders]
    labels = ("cat", "dog", "mouse", "rat")[:num_folders]
    num_matched = num_folders // 2
    with pytest.raises(
        ImageFolderError, match=rf"{num_matched} of {num_folders} .*no label for 'horse'.*--labels FILE"
    ):
        match_folders(folders, labels, num_folders)


def test_message_names_at_most_five():
    folders = ["cat", *(f"x{index}" for index in range(8))]
    expected = "1 of 9 class folders are labels; no label for 'x0', 'x1', 'x2', 'x3', 'x4' and 3 more;"
    with pytest.raises(ImageFolderError, match=re.escape(expected)):
        match_folders(folders, ANIMALS, 4)


def test_wrong_number_of_folders():
    with pytest.raises(
        ImageFolderError,
        match=r"got 2 class folders \('x', 'y'\) .* 3 classes.*only numbers; .*--labels FILE",
    ):
        match_folders(["y", "x"], None, 3)
    with pytest.raises(ImageFolderError, match=r"no folder is one of its 4 labels; expected 4 folders"):
        match_folders(["y", "x"], ANIMALS, 4)


def test_wrong_number_with_some_synsets_names_the_others():
    with pytest.raises(ImageFolderError, match=r"got 2 class folders \('cats'\)"):
        match_folders(["n01440764", "cats"], None, 1000)


def test_a_single_number_has_no_classes():
    with pytest.raises(ImageFolderError, match=r"got 2 class folders .* of one number.* without folders in it"):
        match_folders(["y", "x"], None, 1)


def test_no_folders():
    with pytest.raises(ImageFolderError, match="got no class folders"):
        match_folders([], ANIMALS, 4)


def test_number_of_labels_must_fit():
    with pytest.raises(ValueError, match="got 4 labels for a model of 1000 classes"):
        match_folders(["cat"], ANIMALS, 1000)


def test_match_cannot_be_changed():
    match = match_folders(["cat"], ANIMALS, 4)
    with pytest.raises(TypeError):
        match.index_of["cat"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        match.how = ""
