"""What lies in a file's stead is told as such by whatever reads files that users bring."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_bundle import small_network, write_bundle

from exporter.checkpoints.checkpoint import load_checkpoint
from exporter.graph.read_model import read_model
from resnet_export.export_job.prepare import _read_labels
from resnet_export.images.archive import archive_pictures
from resnet_export.images.arrays import array_pictures
from resnet_export.images.list_file import labels_of_list
from runtimes import load
from runtimes.errors import BundleError
from runtimes.io.stand_in import stand_in, stand_in_at
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.image_list import list_images

# Source: github.com/git-lfs/git-lfs/blob/main/docs/spec.md, its first example
POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("weights.safetensors", load_checkpoint),
        ("weights.pth", load_checkpoint),
        ("model.onnx", read_model),
        ("model.onnx", load),
        ("cat.jpg", read_image),
        ("images.txt", list_images),
        ("val.csv", labels_of_list),
        ("labels.txt", _read_labels),
        ("images.tar", lambda path: list(archive_pictures(path, Counter()))),
        ("images.npz", lambda path: list(array_pictures(path))),
    ],
)
def test_each_reader_of_a_users_file_names_the_pointer(name, read, tmp_path):
    path = tmp_path / name
    path.write_bytes(POINTER)
    with pytest.raises(Exception, match=rf"{name}.*Git LFS pointer.*git lfs pull"):
        read(path)


def test_weights_beside_an_onnx_file_that_are_a_pointer(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300])],
        [onnx.numpy_helper.from_array(np.ones(300, np.float32), "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    read_model(tmp_path / "m.onnx")
    (tmp_path / "m.data").write_bytes(POINTER)
    with pytest.raises(Exception, match=r"m\.data.*git lfs pull"):
        read_model(tmp_path / "m.onnx")


def test_a_bundle_of_which_git_holds_pointers(tmp_path):
    bundle = write_bundle(tmp_path / "b", {"fp32": small_network()})
    (bundle / "model.onnx").write_bytes(POINTER)
    with pytest.raises(BundleError, match=r"model\.onnx.*git lfs pull"):
        load(bundle)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"\n<!DOCTYPE html>\n<html><head><title>Sign in", "web page"),
        (b"<html lang=en>", "web page"),
        (b"outs:\n- md5: a304afb96060aad90176268345e10355\n  path: model.pth\n", "dvc pull"),
        (b"/annex/objects/SHA256E-s31--0f4c.pth\n", "git annex get"),
        (b"PK\x03\x04", ""),
        (b"", ""),
    ],
)
def test_others(start: bytes, told):
    assert told in stand_in(start)
    assert bool(told) == bool(stand_in(start))


def test_what_cannot_be_read_is_not_judged(tmp_path):
    assert stand_in_at(tmp_path) == stand_in_at(tmp_path / "none") == ""
