import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.checkpoints.checkpoint import infer_num_classes, load_checkpoint, load_into
from exporter.networks.cifar_resnet import CifarResNet
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.transform import Preprocessing, preprocess

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def digits():
    """The example's modules, imported as its scripts import them: from their own folder."""
    sys.path.insert(0, str(DIGITS))
    try:
        import split
        import write_images

        yield {"split": split, "write_images": write_images}
    finally:
        sys.path.remove(str(DIGITS))
        for name in ("split", "write_images"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    assert digits["write_images"].write_images(out) == (616, 0)
    return out


def test_split_is_disjoint_fixed_and_stratified(digits):
    _, labels = digits["split"].load_pictures()
    split = digits["split"].split_digits(labels)
    train, calib, val = set(split.train.tolist()), set(split.calib.tolist()), set(split.val.tolist())
    assert (len(train), len(calib), len(val)) == (1437, 256, 360)
    assert train | val == set(range(1797))
    assert not train & val
    assert calib < train
    assert set(np.bincount(labels[split.val])) <= {35, 36, 37}
    assert set(np.bincount(labels[split.calib])) <= {25, 26}


def test_pictures_are_the_data_set_scaled_to_8_bit(digits):
    from sklearn.datasets import load_digits

    pictures, labels = digits["split"].load_pictures()
    values = load_digits().images
    assert len(pictures) == len(labels) == 1797
    assert np.abs(np.stack(pictures) - values * 255 / 16).max() <= 0.5
    assert np.stack(pictures).max() == 255


def test_written_images_are_the_split(digits, written):
    pictures, labels = digits["split"].load_pictures()
    split = digits["split"].split_digits(labels)
    for name, indices in (("calib", split.calib), ("val", split.val)):
        expected = {f"{labels[index]}/{index:04d}.png" for index in indices}
        assert {str(path.relative_to(written / name)) for path in (written / name).rglob("*.*")} == expected
    index = int(split.val[0])
    image = read_image(written / "val" / str(labels[index]) / f"{index:04d}.png")
    assert np.array_equal(np.asarray(image)[..., 0], np.asarray(pictures[index]))


def test_second_run_only_writes_what_is_missing(digits, written):
    gone = next((written / "val" / "3").iterdir())
    gone.unlink()
    assert digits["write_images"].write_images(written) == (1, 615)
    assert gone.is_file()


def test_committed_checkpoint_reads_the_held_out_digits(digits):
    checkpoint = load_checkpoint(DIGITS / "resnet20_digits.safetensors")
    assert checkpoint.notes == ()
    assert checkpoint.metadata["model"] == "cifar_resnet20"
    assert json.loads(checkpoint.metadata["labels"]) == [str(digit) for digit in range(10)]
    assert int(checkpoint.metadata["num_classes"]) == infer_num_classes(checkpoint.state_dict) == 10
    model = CifarResNet(20, num_classes=10)
    load_into(model, checkpoint)

    pictures, labels = digits["split"].load_pictures()
    val = digits["split"].split_digits(labels).val
    preprocessing = Preprocessing.from_json(json.loads(checkpoint.metadata["preprocessing"]))
    images = np.stack([preprocess(preprocessing, pictures[index].convert("RGB")) for index in val])
    with torch.inference_mode():
        predicted = model.eval()(torch.from_numpy(images)).argmax(1).numpy()
    assert np.mean(predicted == labels[val]) > 0.97


def test_committed_batch_statistics_are_worth_folding():
    state_dict = load_checkpoint(DIGITS / "resnet20_digits.safetensors").state_dict
    means = torch.cat([tensor for name, tensor in state_dict.items() if name.endswith("running_mean")])
    variances = torch.cat([tensor for name, tensor in state_dict.items() if name.endswith("running_var")])
    assert means.abs().mean() > 0.01
    assert (variances - 1).abs().mean() > 0.1
    assert variances.min() > 0
