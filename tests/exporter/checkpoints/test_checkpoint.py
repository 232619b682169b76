import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from exporter.checkpoints.checkpoint import (
    Checkpoint,
    check_finite,
    infer_num_classes,
    load_checkpoint,
    load_into,
    state_dict_sha256,
)
from exporter.checkpoints.choose_weights import WRAPPER_KEYS
from exporter.checkpoints.pickle_imports import names_imported_by_pickle
from exporter.errors import UnsafeCheckpointError, WeightsError
from exporter.networks.cifar_resnet import CifarResNet


def small_model(num_classes=10, seed=0):
    torch.manual_seed(seed)
    return CifarResNet(8, num_classes).eval()


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)


def save(payload, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(payload, path)
    else:
        torch.save(payload, path)
    return path


def checkpoint_of(state_dict):
    return Checkpoint(dict(state_dict), {}, (), state_dict_sha256(state_dict))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


class SlyBomb(OrderedDict):
    """A state dict to look at, which runs code when it is rebuilt."""

    def __reduce__(self):
        return exec, (f"open({self['target']!r}, 'w').close()",)


# Formats


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.PT", "w.bin", "w.ckpt", "model_best.pth.tar"])
def test_every_format_gives_the_same_weights(tmp_path, name):
    state_dict = small_model().state_dict()
    loaded = load_checkpoint(save(state_dict, tmp_path / name))
    assert_same(loaded.state_dict, state_dict)
    assert loaded.notes == ()
    assert loaded.metadata == {}
    assert loaded.sha256 == state_dict_sha256(state_dict)


def test_format_of_torch_before_1_6(tmp_path):
    state_dict = small_model().state_dict()
    torch.save(state_dict, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_same(load_checkpoint(tmp_path / "w.pth").state_dict, state_dict)


def test_safetensors_metadata_is_returned(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors", metadata={"model": "cifar_resnet8"})
    assert load_checkpoint(tmp_path / "w.safetensors").metadata == {"model": "cifar_resnet8"}


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = save({"a": torch.ones(5000)}, tmp_path / "w.safetensors")
    loaded = load_checkpoint(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert loaded.state_dict["a"].sum() == 5000


def test_parameters_come_without_gradients(tmp_path):
    path = save(dict(small_model().named_parameters()), tmp_path / "w.pth")
    assert not any(tensor.requires_grad for tensor in load_checkpoint(path).state_dict.values())


# Wrappers, prefixes and other notes


@pytest.mark.parametrize("key", WRAPPER_KEYS)
def test_wrapper_is_opened_and_noted(tmp_path, key):
    state_dict = small_model().state_dict()
    path = save({"epoch": 3, "optimizer": {"state": {}}, key: state_dict}, tmp_path / "w.pth")
    loaded = load_checkpoint(path)
    assert_same(loaded.state_dict, state_dict)
    assert loaded.notes == (f'took the weights under "{key}"',)


def test_first_wrapper_is_taken_and_the_other_named(tmp_path):
    first, second = small_model(seed=1).state_dict(), small_model(seed=2).state_dict()
    loaded = load_checkpoint(save({"ema": second, "model": first}, tmp_path / "w.pth"))
    assert_same(loaded.state_dict, first)
    assert loaded.notes == (
        'took the weights under "model" (the file also holds ema: not used; --checkpoint-key takes another)',
    )


@pytest.mark.parametrize("keys", [("model", "state_dict"), ("ema", "module"), ("state_dict", "model", "module")])
def test_wrappers_in_wrappers_are_opened_and_noted(tmp_path, keys):
    state_dict = small_model().state_dict()
    payload = state_dict
    for key in reversed(keys):
        payload = {"epoch": 3, "args": {}, key: payload}
    loaded = load_checkpoint(save(payload, tmp_path / "w.pth"))
    assert_same(loaded.state_dict, state_dict)
    assert loaded.notes == tuple(f'took the weights under "{key}"' for key in keys)


@pytest.mark.parametrize("wrapped", [False, True])
def test_numpy_arrays_in_the_place_of_tensors_are_told(wrapped, tmp_path):
    arrays = {"conv1.weight": np.zeros((4, 3, 1, 1), np.float32), "fc.bias": np.zeros(4, np.float32)}
    torch.save({"model": arrays, "epoch": 3} if wrapped else arrays, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"2 of its values are NumPy arrays \(conv1.weight, fc.bias\), .*from_numpy"):
        load_checkpoint(tmp_path / "weights.pt")


def test_a_wrapper_that_holds_itself_is_refused(tmp_path):
    payload = {"epoch": 3}
    payload["model"] = payload["state_dict"] = payload["ema"] = payload
    with pytest.raises(WeightsError, match="a dict without weights"):
        load_checkpoint(save(payload, tmp_path / "w.pth"))


def test_wrapper_without_tensors_is_passed_over(tmp_path):
    state_dict = small_model().state_dict()
    loaded = load_checkpoint(save({"model": {"name": "r8"}, "ema": state_dict}, tmp_path / "w.pth"))
    assert_same(loaded.state_dict, state_dict)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone."])
def test_common_prefix_is_cut_and_noted(tmp_path, prefix, name):
    state_dict = small_model().state_dict()
    path = save({prefix + key: tensor for key, tensor in state_dict.items()}, tmp_path / name)
    loaded = load_checkpoint(path)
    assert_same(loaded.state_dict, state_dict)
    assert loaded.notes == (f'cut the prefix "{prefix}" off every name',)


def test_prefixes_of_several_wrappers_are_cut(tmp_path):
    state_dict = small_model().state_dict()
    path = save({"module._orig_mod." + key: tensor for key, tensor in state_dict.items()}, tmp_path / "w.pth")
    loaded = load_checkpoint(path)
    assert_same(loaded.state_dict, state_dict)
    assert [note.split('"')[1] for note in loaded.notes] == ["module.", "_orig_mod."]


def test_prefix_of_some_names_stays(tmp_path):
    path = save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert set(load_checkpoint(path).state_dict) == {"module.a", "b"}


def test_averaged_model_of_torchs_own_ema(tmp_path):
    model = small_model()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    loaded = load_checkpoint(save({"model_ema": averaged.state_dict()}, tmp_path / "w.pth"))
    assert_same(loaded.state_dict, model.state_dict())
    assert "left out what is not a weight: n_averaged" in loaded.notes


def test_what_a_profiler_left_behind_is_no_weight(tmp_path):
    """thop.profile registers these buffers in every layer, and checkpoints saved after it hold them."""
    weights = small_model().state_dict()
    counts = {"total_ops": torch.zeros(1), "layer1.total_params": torch.tensor(2.0)}
    loaded = load_checkpoint(save({**weights, **counts}, tmp_path / "w.pth"))
    assert_same(loaded.state_dict, weights)
    assert "left out what is not a weight: total_ops, layer1.total_params" in loaded.notes


def test_entries_that_are_no_tensors_are_left_out_and_noted(tmp_path):
    path = save({**small_model().state_dict(), "epoch": 3, "arch": "r8"}, tmp_path / "w.pth")
    loaded = load_checkpoint(path)
    assert_same(loaded.state_dict, small_model().state_dict())
    assert loaded.notes == ("left out what is not a weight: epoch, arch",)


def test_half_precision_is_noted_and_fits(tmp_path):
    path = save(small_model().half().state_dict(), tmp_path / "w.safetensors")
    loaded = load_checkpoint(path)
    assert loaded.notes == ("some weights are stored as float16; loading converts them to the model's dtype",)
    model = small_model(seed=3)
    load_into(model, loaded)
    assert model.fc.weight.dtype == torch.float32
    torch.testing.assert_close(model.fc.weight, small_model().fc.weight.half().float(), rtol=0, atol=0)


# Files that are no weights


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_checkpoint(tmp_path / "w.pth")


def test_folder(tmp_path):
    with pytest.raises(WeightsError, match="folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(WeightsError, match="empty"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["w.h5", "w", "w.onnx"])
def test_unknown_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"expected one of \.safetensors, \.pth"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("kept", [1, 7, 100, 5000, -1])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "old.pth"])
def test_truncated_file_is_a_plain_weights_error(tmp_path, name, kept):
    path = tmp_path / name
    if name == "old.pth":
        torch.save(small_model().state_dict(), path, _use_new_zipfile_serialization=False)
    else:
        save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="copy or download it again") as caught:
        load_checkpoint(path)
    assert not isinstance(caught.value, UnsafeCheckpointError)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"# Model card\n", b"version https://example.com/v1\n", b"\0" * 500])
def test_other_content_is_a_plain_weights_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="copy or download it again") as caught:
        load_checkpoint(tmp_path / name)
    assert not isinstance(caught.value, UnsafeCheckpointError)
    assert "weights_only" not in str(caught.value)  # torch advises to turn the safety off


def test_damaged_bytes_only_raise_weights_errors(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    whole, path = buffer.getvalue(), tmp_path / "w.pth"
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "it holds nothing"),
        ({"epoch": 1, "lr": 0.1}, "it holds epoch, lr"),
        ([torch.ones(1)], "got a list"),
        (torch.ones(3), "got a Tensor"),
        ({"state_dict": {}}, "it holds state_dict"),
        ({"n_averaged": torch.tensor(1)}, "got no tensors"),
    ],
)
def test_pickle_without_weights(tmp_path, payload, message):
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(save(payload, tmp_path / "w.pth"))


def test_safetensors_without_tensors(tmp_path):
    with pytest.raises(WeightsError, match="got no tensors"):
        load_checkpoint(save({}, tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse_coo float32"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "strided qint8"),
        (lambda: torch.ones(2, device="meta"), "on meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_are_no_plain_arrays(tmp_path, odd, words):
    path = save({"a": torch.ones(1), "b": odd()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"not plain arrays: b .*{words}"):
        load_checkpoint(path)


# Files that would run code


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("bare", [True, False])
def test_pickle_bomb_does_not_go_off(tmp_path, bare, protocol):
    target, path = tmp_path / "pwned", tmp_path / "w.pth"
    payload = {"state_dict": small_model().state_dict(), "bomb": Bomb(str(target))}
    if bare:
        path.write_bytes(pickle.dumps(Bomb(str(target)), protocol=protocol))
    else:
        torch.save(payload, path, pickle_protocol=protocol)
    with pytest.raises(UnsafeCheckpointError, match=r"would run code.*safetensors"):
        load_checkpoint(path)
    assert not target.exists()
    if bare:
        pickle.loads(path.read_bytes())
        assert target.exists()  # the bomb is a live one


def test_bomb_dressed_as_a_state_dict(tmp_path):
    target, path = tmp_path / "pwned", tmp_path / "w.pth"
    torch.save(SlyBomb(target=str(target), weight=torch.ones(1)), path)
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.exec|__builtin__\.exec"):
        load_checkpoint(path)
    assert not target.exists()


def test_formats_under_each_other_s_names(tmp_path):
    """A suffix is often wrong after a download or a copy; what the file is, is said, and what to do."""
    weights = {"weight": torch.ones(1)}
    paths = [tmp_path / name for name in ("a.pth", "b.safetensors", "c.pth.tar", "d.pth")]
    save_file(weights, paths[0])
    torch.save(weights, paths[1])
    with tarfile.open(paths[2], "w") as archive:
        archive.add(paths[1], "model.pth")
    paths[3].write_bytes(gzip.compress(paths[1].read_bytes()))
    told = (
        r"got a safetensors file, .*rename it to \.safetensors",
        r"got a zip, .*rename it to \.pth",
        r"got a tar archive, .*unpack it",
        r"got a gzip file, .*unpack it",
    )
    for path, words in zip(paths, told, strict=True):
        with pytest.raises(WeightsError, match=words):
            load_checkpoint(path)


def test_bomb_named_safetensors(tmp_path):
    target, path = tmp_path / "pwned", tmp_path / "w.safetensors"
    torch.save({"a": Bomb(str(target))}, path)
    with pytest.raises(WeightsError, match="got a zip, as torch"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_module(tmp_path, zipped):
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.container\.Sequential"):
        load_checkpoint(tmp_path / "w.pth")


def test_torchscript_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # the members torch.jit.save writes
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"w/{member}", b"")
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "w.pt")


def test_torchscript_archive_that_torch_wrote(tmp_path):
    # In a fork, so that what torch.jit keeps does not stay in this process.
    child = os.fork()
    if not child:
        try:
            torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "w.pt")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "w.pt")


def test_imports_are_read_without_running_them(tmp_path):
    target, path = tmp_path / "pwned", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(Bomb(str(target)), protocol=2))
    assert any(name.startswith("pathlib") for name in names_imported_by_pickle(path))
    assert not target.exists()


def test_plain_state_dict_imports_nothing_of_note(tmp_path):
    assert names_imported_by_pickle(save(small_model().state_dict(), tmp_path / "w.pth")) == []


# Digest


def test_digest_by_hand():
    line = json.dumps(["a", "float32", [2]]).encode() + b"\n"
    expected = hashlib.sha256(line + np.array([1.5, -2.0], "<f4").tobytes()).hexdigest()
    assert state_dict_sha256({"a": torch.tensor([1.5, -2.0])}) == expected


def test_digest_does_not_depend_on_format_order_or_memory_layout(tmp_path):
    state_dict = small_model().state_dict()
    expected = state_dict_sha256(state_dict)
    backwards = dict(reversed(state_dict.items()))
    assert state_dict_sha256(backwards) == expected
    assert state_dict_sha256({"a": torch.ones(3, 2).t()}) == state_dict_sha256({"a": torch.ones(2, 3)})
    found = {load_checkpoint(save(backwards, tmp_path / name)).sha256 for name in ("w.pth", "w.safetensors")}
    assert found == {expected}


def test_digest_does_not_depend_on_batch_counts():
    state_dict = small_model().state_dict()
    without = {name: tensor for name, tensor in state_dict.items() if not name.endswith("num_batches_tracked")}
    assert len(without) < len(state_dict)
    assert state_dict_sha256(without) == state_dict_sha256(state_dict)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0000002]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)},
        {"c": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(4)},
        {"a": torch.tensor([1.0, 2.0])},
    ],
)
def test_digest_changes_with_value_shape_name_dtype_and_number(other):
    assert state_dict_sha256(other) != state_dict_sha256({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)})


def test_digest_of_unusual_dtypes_and_shapes():
    state_dict = {
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.ones(0, 3),
        "one": torch.tensor(True),
    }
    assert len(state_dict_sha256(state_dict)) == 64


# Number of classes


@pytest.mark.parametrize(
    ("state_dict", "expected"),
    [
        ({"fc.weight": torch.ones(7, 64)}, 7),
        ({"fc.weight": torch.ones(7)}, None),
        ({"head.weight": torch.ones(7, 64)}, None),
        ({}, None),
    ],
)
def test_infer_num_classes(state_dict, expected):
    assert infer_num_classes(state_dict) == expected


# Fit


def test_loaded_model_answers_as_the_saved_one(tmp_path):
    saved, fresh = small_model(seed=1), small_model(seed=2)
    load_into(fresh, load_checkpoint(save(saved.state_dict(), tmp_path / "w.pth")))
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(fresh(x), saved(x), rtol=0, atol=0)


def test_missing_batch_counts_are_fine():
    state_dict = small_model(seed=1).state_dict()
    without = {name: tensor for name, tensor in state_dict.items() if not name.endswith("num_batches_tracked")}
    fresh = small_model(seed=2)
    load_into(fresh, checkpoint_of(without))
    assert_same(fresh.state_dict(), state_dict)


def test_missing_and_unexpected_are_listed_up_to_five():
    state_dict = small_model().state_dict()
    missing = [name for name in state_dict if name.startswith("layer3") and "num_batches" not in name]
    state_dict = {name: tensor for name, tensor in state_dict.items() if name not in missing}
    state_dict["extra.weight"] = torch.ones(1)
    with pytest.raises(WeightsError) as caught:
        load_into(small_model(), checkpoint_of(state_dict))
    message = str(caught.value)
    assert "do not fit CifarResNet" in message
    assert f"missing from the file: {', '.join(missing[:5])} and {len(missing) - 5} more" in message
    assert "unexpected in the file: extra.weight" in message
    assert "--num-classes" not in message


def test_wrong_shapes_are_listed_with_both_and_change_nothing():
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {**small_model(seed=1).state_dict(), "conv1.weight": torch.ones(16, 1, 3, 3)}
    with pytest.raises(WeightsError, match=r"conv1\.weight \(got \[16, 1, 3, 3\], expected \[16, 3, 3, 3\]\)"):
        load_into(model, checkpoint_of(given))
    assert_same(model.state_dict(), before)


def test_other_number_of_classes_is_hinted_at():
    with pytest.raises(WeightsError, match=r"fc\.weight .*7 classes: pass --num-classes 7"):
        load_into(small_model(10), checkpoint_of(small_model(7).state_dict()))


def test_integer_weights_do_not_fit():
    given = {**small_model().state_dict(), "fc.bias": torch.ones(10, dtype=torch.int8)}
    with pytest.raises(WeightsError, match=r"fc\.bias \(got int8, expected floating-point values\)"):
        load_into(small_model(), checkpoint_of(given))


# Finite values


@pytest.mark.parametrize("name", ["layer2.0.conv1.weight", "bn1.running_var"])
def test_nan_and_inf_are_named_with_their_counts(name):
    state_dict = {key: tensor.clone() for key, tensor in small_model().state_dict().items()}
    state_dict[name].view(-1)[:3] = torch.tensor([float("nan"), float("nan"), float("-inf")])
    count = state_dict[name].numel()
    with pytest.raises(WeightsError, match=rf"{name} \(2 NaN and 1 Inf of {count} values\)"):
        load_into(small_model(), checkpoint_of(state_dict))


def test_value_too_large_for_float32_is_found():
    given = {**small_model().state_dict(), "fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    with pytest.raises(WeightsError, match=r"fc\.bias \(0 NaN and 10 Inf"):
        load_into(small_model(), checkpoint_of(given))


def test_finite_module_passes():
    check_finite(small_model())


# Bombs


def test_tensors_that_show_one_number_many_times(tmp_path):
    """`as_strided` with strides of 0 is four terabytes in four bytes; the hash and the copy would write them out."""
    bomb = {"conv1.weight": torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))}
    torch.save(bomb, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="made to fill the memory"):
        load_checkpoint(tmp_path / "bomb.pth")


def test_a_checkpoint_that_unpacks_to_far_more_than_it_is(tmp_path):
    torch.save({"conv1.weight": torch.zeros(8 << 20)}, tmp_path / "good.pth")
    assert load_checkpoint(tmp_path / "good.pth").state_dict["conv1.weight"].numel() == 8 << 20
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for member in good.infolist():
            bomb.writestr(member.filename, good.read(member))
    with pytest.raises(WeightsError, match=r"not compressed, as torch\.save writes it"):
        load_checkpoint(tmp_path / "bomb.pth")


def test_tied_weights_are_no_bomb(tmp_path):
    shared = torch.zeros(1 << 20)
    torch.save({f"layer{place}.weight": shared for place in range(4)}, tmp_path / "tied.pth")
    assert len(load_checkpoint(tmp_path / "tied.pth").state_dict) == 4


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_memory_by_the_gigabyte(tmp_path, zipped):
    """`bytearray(n)` is allowed by torch.load(weights_only=True); here n is 2 ** 36."""
    program = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."
    path = tmp_path / "bomb.pth"
    path.write_bytes(program)
    if zipped:
        torch.save({"x": torch.zeros(1)}, tmp_path / "good.pth")
        with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(path, "w") as bomb:
            for member in good.infolist():
                is_pickle = member.filename.endswith("data.pkl")
                bomb.writestr(member.filename, program if is_pickle else good.read(member))
    with pytest.raises(UnsafeCheckpointError, match="bytearray"):
        load_checkpoint(path)


def test_a_string_that_claims_to_be_longer_than_any_file(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.")
    with pytest.raises(WeightsError):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_network_prepared_for_pytorchs_quantization_are_told_as_such():
    module = small_model().train()
    module.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    weights = torch.ao.quantization.prepare_qat(module).state_dict()
    with pytest.raises(WeightsError, match=r"do not fit .*PyTorch's own quantization prepared .*save the float32 net"):
        load_into(small_model(), checkpoint_of(weights))
