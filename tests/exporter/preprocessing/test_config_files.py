"""Preprocessing where it is written: beside the weights, in training arguments, in our own ONNX files."""

import argparse
import json

import numpy as np
import onnx
import pytest
import timm
import torch
from torchvision import transforms

from exporter.checkpoints.checkpoint import load_checkpoint
from exporter.checkpoints.training_record import TIMM, TORCHVISION, training_record
from exporter.errors import PreprocessingError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.networks.cifar_resnet import CifarResNet
from exporter.passes.add_pre_post import metadata_of
from exporter.preprocessing.config_files import CONFIG, PROCESSOR, labels_beside, preprocessing_beside, unread_beside
from exporter.preprocessing.options import PreprocessingOptions
from exporter.preprocessing.training_arguments import preprocessing_of_reference
from exporter.tracing.export import ExportConfig, export_loaded
from runtimes.preprocessing.transform import Interpolation, Preprocessing, preprocess

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
NORMALIZE = {"image_mean": list(MEAN), "image_std": list(STD), "do_normalize": True}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "resample": 3, "crop_pct": 0.875}


@pytest.mark.parametrize(
    ("config", "resize", "crop", "interpolation"),
    [
        ({**CONVNEXT, "size": {"shortest_edge": 224}}, 256, (224, 224), "bicubic"),
        ({**CONVNEXT, "size": {"shortest_edge": 384}}, (384, 384), None, "bicubic"),
        ({**CONVNEXT, "image_processor_type": None, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 224},
         256, (224, 224), "bicubic"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 96, "width": 128}, "resample": 2},
         (96, 128), None, "bilinear"),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 200}},
         256, (224, 200), "bilinear"),
        ({"size": 224, "do_center_crop": False, "resample": 0}, (224, 224), None, "nearest"),
    ],
)  # fmt: skip
def test_hugging_faces_image_processors(tmp_path, config, resize, crop, interpolation):
    (tmp_path / PROCESSOR).write_text(json.dumps({**NORMALIZE, **config}))
    found, where = preprocessing_beside(tmp_path / "model.safetensors")
    assert found == Preprocessing(resize, crop, Interpolation(interpolation), MEAN, STD)
    assert where == "preprocessor_config.json beside the weights"


@pytest.mark.parametrize(
    "config", [{"rescale_factor": 1 / 127.5}, {"size": {}}, {"resample": 9}, {"image_mean": [0.5]}, {"size": "large"}]
)
def test_a_processor_that_cannot_be_followed_is_refused(tmp_path, config):
    (tmp_path / PROCESSOR).write_text(json.dumps({**NORMALIZE, "size": 224, **config}))
    with pytest.raises(PreprocessingError, match="cannot be followed"):
        preprocessing_beside(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (PROCESSOR, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "it is a Git LFS pointer"),
        (CONFIG, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "it is a Git LFS pointer"),
        (CONFIG, b"<!DOCTYPE html><title>401</title>", "it is a web page"),
        (PROCESSOR, b'{"image_mean": [0.5, 0.5', "delimiter"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, name, content, says):
    """It is there to say how images are prepared; without it ImageNet's way would be taken."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreprocessingError, match=rf"{name}, beside the weights, cannot be read \(.*{says}"):
        preprocessing_beside(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '{"model_type": "x"}'])
def test_other_files_of_these_names_are_passed_over(tmp_path, content):
    (tmp_path / CONFIG).write_text(content)
    (tmp_path / PROCESSOR).write_text('{"model_type": "x"}')
    assert preprocessing_beside(tmp_path / "model.safetensors") is None
    assert labels_beside(tmp_path / "model.safetensors", 3) is None


@pytest.mark.parametrize("content", [b"no json", b"\xff\xfe{}", b"[" * 100_000, b""])
def test_a_config_that_is_no_json_is_told(tmp_path, content):
    (tmp_path / CONFIG).write_bytes(content)
    assert str(tmp_path / CONFIG) in unread_beside(tmp_path / "w.pth")
    torch.save(CifarResNet(20, 3).state_dict(), tmp_path / "w.pth")
    options = PreprocessingOptions(mean=MEAN, std=STD)
    loaded = load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.pth"), preprocessing=options))
    assert [told for told in loaded.warnings if str(tmp_path / CONFIG) in told]
    (tmp_path / CONFIG).write_text("{}")
    assert unread_beside(tmp_path / "w.pth") is None


def test_labels_of_both_kinds_of_configuration(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    assert labels_beside(tmp_path / "w.pth", 2) == ("cat", "dog")
    assert labels_beside(tmp_path / "w.pth", 3) is None
    (tmp_path / CONFIG).write_text(json.dumps({"label_names": ["a", "b"], "pretrained_cfg": {}}))
    assert labels_beside(tmp_path / "w.pth", 2) == ("a", "b")


def test_torchvisions_reference_script_is_followed_to_the_bit():
    args = argparse.Namespace(model="resnet18", val_resize_size=40, val_crop_size=32, interpolation="bicubic")
    record = training_record({"model": {}, "args": vars(args)})
    assert record.script == TORCHVISION
    found, _ = preprocessing_of_reference(record)
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    steps = [transforms.Resize(40, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    steps += [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float)]
    steps += [transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    np.testing.assert_array_equal(preprocess(found, image), transforms.Compose(steps)(image).numpy())


def test_timms_saver_is_followed_as_timm_resolves_its_arguments(tmp_path):
    model = timm.create_model("resnet18", num_classes=3)
    args = argparse.Namespace(model="resnet18", img_size=64, crop_pct=0.9, mean=[0.5] * 3, std=None, interpolation="")
    saver = timm.utils.CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), lr=0.1), args=args, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0, metric=1.0)
    assert load_checkpoint(tmp_path / "last.pth.tar").training.script == TIMM
    loaded = load_model(ModelRequest("auto", str(tmp_path / "last.pth.tar")))
    config = timm.data.resolve_data_config(vars(args), model=model)
    assert loaded.source == "timm"
    assert loaded.preprocessing.input_size == config["input_size"][1:]
    assert loaded.preprocessing.resize == int(64 / 0.9)
    assert (loaded.preprocessing.mean, loaded.preprocessing.interpolation.value) == (
        (0.5,) * 3,
        config["interpolation"],
    )
    assert loaded.preprocessing_source == "the checkpoint's training arguments (timm's script)"


def test_our_own_onnx_files_say_it_themselves(tmp_path):
    options = PreprocessingOptions(mean=MEAN, std=STD)
    torch.save(CifarResNet(20, 3).state_dict(), tmp_path / "w.pth")
    loaded = load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.pth"), preprocessing=options))
    model = export_loaded(loaded, ExportConfig()).onnx
    said = metadata_of(loaded.preprocessing, model_id="x", num_classes=3, labels=("a", "b", "c"))
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in said.items()})
    onnx.save(model, tmp_path / "model.onnx")
    again = load_model(ModelRequest(str(tmp_path / "model.onnx")))
    assert again.preprocessing == loaded.preprocessing
    assert again.labels == ("a", "b", "c")
    assert again.preprocessing_source == "the file's own metadata"
