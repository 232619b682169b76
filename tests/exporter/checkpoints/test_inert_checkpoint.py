"""Checkpoints as training scripts write them: what stands beside the weights is read and never run."""

import argparse
import collections
import datetime
import enum
import functools
import operator
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporter.checkpoints.checkpoint import load_checkpoint
from exporter.checkpoints.inert_checkpoint import Opaque, read_inert_checkpoint
from exporter.checkpoints.inert_pickle import Made, Name, read_inert
from exporter.errors import UnsafeCheckpointError, WeightsError


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """As addict, yacs and Lightning's AttributeDict are: a dict with attributes."""


class Runs:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def weights():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def saved(payload, path: Path, *, zipped=True, protocol=2) -> Path:
    """Files before PyTorch 1.6 are not zipped."""
    torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


both_forms = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def assert_weights(loaded):
    expected = weights()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, output=Path("runs/1"), mean=[0.5, 0.5]),
    "float64": np.float64(74.6),
    "float32": np.float32(0.5),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "dtype": np.dtype("float32"),
    "array": np.ones(3),
    "path": Path("a/b"),
    "date": datetime.datetime(2025, 1, 2, tzinfo=datetime.timezone.utc),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(int, {"a": 1}),
    "deque": collections.deque([1, 2], maxlen=3),
    "config": Config(model="resnet18"),
    "enum": Colour.RED,
    "partial": functools.partial(operator.add, 1),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "class": nn.ReLU,
    "function": functools.reduce,
    "tuple_key": {(1, 2): 3},
    "counter": collections.Counter("aab"),
    "range": range(3),
    "slice": slice(1, 2),
    "bytes": b"\xff\x00",
    "complex": 1j,
    "big": 1 << 80,
}


@both_forms
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_what_scripts_store_beside_the_weights(tmp_path, name, protocol, zipped):
    payload = {"model": weights(), "beside": BESIDE[name]}
    path = saved(payload, tmp_path / "w.pth", zipped=zipped, protocol=protocol)
    assert_weights(load_checkpoint(path).state_dict)


@both_forms
def test_all_of_it_at_once_with_an_optimizer(tmp_path, zipped):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    payload = {
        "state_dict": weights(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "scaler": {"scale": torch.ones(1)},
        **BESIDE,
    }
    assert_weights(load_checkpoint(saved(payload, tmp_path / "w.ckpt", zipped=zipped)).state_dict)


@both_forms
def test_values_that_come_out(tmp_path, zipped):
    read = read_inert_checkpoint(saved({**BESIDE, "model": weights()}, tmp_path / "w.pth", zipped=zipped))
    assert read["namespace"] == {"lr": 0.1, "output": "runs/1", "mean": [0.5, 0.5]}
    assert (read["float64"], read["float32"], read["int64"], read["bool"]) == (74.6, 0.5, 3, True)
    assert read["path"] == "a/b"
    assert read["config"] == {"model": "resnet18"}
    assert read["default"] == {"a": 1}
    assert read["deque"] == [1, 2]
    assert read["class"] == Opaque("torch.nn.modules.activation.ReLU")
    assert read["date"] == Opaque("datetime.datetime")
    assert read["bytes"] == b"\xff\x00"


@both_forms
def test_only_plain_values_come_out(tmp_path, zipped):
    read = read_inert_checkpoint(saved({**BESIDE, "model": weights()}, tmp_path / "w.pth", zipped=zipped))
    waiting, kinds = [read], set()
    while waiting:
        value = waiting.pop()
        kinds.add(type(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
    assert kinds <= {dict, list, tuple, str, bytes, int, float, bool, type(None), torch.Tensor, Opaque}


def test_modules_that_are_not_installed_and_are_never_imported(tmp_path):
    """OmegaConf's nodes in a checkpoint that is read where OmegaConf is not."""
    module = types.ModuleType("omegaconf_not_here")
    exec("class DictConfig:\n    def __init__(self): self._content = {'model': 'resnet18'}", module.__dict__)
    module.DictConfig.__module__ = module.__name__
    sys.modules[module.__name__] = module
    path = saved({"state_dict": weights(), "hyper_parameters": module.DictConfig()}, tmp_path / "w.ckpt")
    del sys.modules[module.__name__]
    assert_weights(load_checkpoint(path).state_dict)
    assert module.__name__ not in sys.modules


@both_forms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64])
def test_tensors_of_every_kind_are_those_of_torch_load(tmp_path, dtype, zipped):
    base = torch.arange(24).reshape(4, 6).to(dtype)
    views = {"a": base, "b": base[1:, ::2], "c": base.t(), "d": base[0, 0], "e": base[:0], "p": base.clone()}
    read = read_inert_checkpoint(saved(views, tmp_path / "w.pth", zipped=zipped))
    expected = torch.load(tmp_path / "w.pth", weights_only=True)
    for name, tensor in expected.items():
        assert read[name].stride() == tensor.stride()
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)
    assert read["a"].data_ptr() == read["d"].data_ptr()


def test_parameters_and_torch_dtypes(tmp_path):
    payload = {"model": {"w": nn.Parameter(torch.ones(2)), "v": torch.ones(1)}, "dtype": torch.float32, "n": np.int8(1)}
    loaded = load_checkpoint(saved(payload, tmp_path / "w.pth")).state_dict
    assert not loaded["w"].requires_grad
    assert loaded["w"].tolist() == [1, 1]


@both_forms
def test_containers_that_hold_themselves(tmp_path, zipped):
    payload = {"model": weights(), "n": np.int8(1)}
    payload["self"] = [payload]
    assert_weights(load_checkpoint(saved(payload, tmp_path / "w.pth", zipped=zipped)).state_dict)


def old_file(program: bytes, keys: list[str], numbers: bytes, *, little_endian=True) -> bytes:
    """The parts of a file before PyTorch 1.6, written by hand."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little_endian}]
    return b"".join(pickle.dumps(part, protocol=2) for part in parts) + program + pickle.dumps(keys, 2) + numbers


def old_tensor(window: bytes = b"N") -> bytes:
    """The pickle of a tensor of 2 numbers in the storage "1"; `window` is its last word."""
    pid = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x001X\x03\x00\x00\x00cpuK\x04" + window
    return b"\x80\x02ctorch._utils\n_rebuild_tensor\n((" + pid + b"tQK\x00K\x02\x85K\x01\x85tR."


def old_numbers(*values: float, claimed: int | None = None) -> bytes:
    return struct.pack(f"<q{len(values)}f", len(values) if claimed is None else claimed, *values)


@pytest.mark.parametrize(("window", "expected"), [(b"N", [1, 2]), (b"(X\x01\x00\x00\x002K\x02K\x02t", [3, 4])])
def test_windows_of_a_storage_as_pytorch_before_0_4_wrote_them(tmp_path, window, expected):
    path = tmp_path / "w.pth"
    path.write_bytes(old_file(old_tensor(window), ["1"], old_numbers(1, 2, 3, 4)))
    assert torch.load(path, weights_only=True).tolist() == expected
    assert read_inert_checkpoint(path).tolist() == expected


@pytest.mark.parametrize("protocol", [2, 4])
def test_text_of_python_2_that_is_no_text(tmp_path, protocol):
    """Python 2 wrote NumPy scalars as byte strings of any bytes."""
    program = b"\x80\x02}(U\x01wK\x01U\x01nU\x04\xff\xfe\x00\x01u."
    (tmp_path / "w.pth").write_bytes(old_file(program, [], b""))
    assert read_inert_checkpoint(tmp_path / "w.pth")["w"] == 1


# Still refused


@pytest.mark.parametrize(("protocol", "zipped"), [(0, True), (2, True), (4, True), (1, False), (2, False), (4, False)])
@pytest.mark.parametrize(
    ("call", "args", "named"),
    [
        ("os.system", ("touch {}",), r"(posix|nt)\.system"),
        ("builtins.exec", ("open({!r}, 'w').close()",), r"builtin(s|__)\.exec"),
        ("builtins.eval", ("open({!r}, 'w')",), r"builtin(s|__)\.eval"),
        ("subprocess.Popen", (["touch", "{}"],), r"(subprocess|commands)\.Popen"),
        ("pathlib.Path.touch", (Path("{}"),), r"pathlib\.Path|what a call returned"),
        ("importlib.import_module", ("{}",), r"importlib\.import_module"),
    ],
)
def test_a_bomb_in_the_arguments_is_refused_and_does_not_go_off(tmp_path, call, args, named, protocol, zipped):
    target = tmp_path / "it_ran"
    filled = tuple(type(a)(str(a).format(str(target))) if isinstance(a, (str, Path)) else a for a in args)
    bomb = argparse.Namespace(hook=Runs(_function(call), *filled))
    path = saved({"model": weights(), "args": bomb}, tmp_path / "w.pth", zipped=zipped, protocol=protocol)
    with pytest.raises(UnsafeCheckpointError, match=named):
        load_checkpoint(path)
    assert not target.exists()


def _function(name):
    module, _, last = name.rpartition(".")
    if module == "pathlib.Path":
        return Path.touch
    return getattr(__import__(module, fromlist=["x"]), last)


def test_a_call_of_what_a_call_returned_is_refused():
    program = b"\x80\x02cfunctools\npartial\nK\x01\x85RK\x02\x85R."
    with pytest.raises(UnsafeCheckpointError, match="what a call returned"):
        read_inert(program)


@both_forms
@pytest.mark.parametrize("beside", [{}, {"args": argparse.Namespace()}])
def test_a_whole_module_is_refused_by_name(tmp_path, beside, zipped):
    path = saved({"model": nn.Sequential(nn.Linear(2, 2)), **beside}, tmp_path / "w.pth", zipped=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.container\.Sequential.*state_dict"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@both_forms
def test_weights_that_need_code_are_refused(tmp_path, zipped):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    payload = {"model": {**weights(), "q": quantized}, "args": argparse.Namespace()}
    with pytest.raises(UnsafeCheckpointError, match=r"its weight 'q'.*_rebuild_qtensor"):
        load_checkpoint(saved(payload, tmp_path / "w.pth", zipped=zipped))


def test_nothing_is_called_and_nothing_imported():
    made = read_inert(pickle.dumps(Runs(Config, 1), protocol=2))
    assert isinstance(made, Made)
    assert made.args == (1,)
    assert read_inert(pickle.dumps(Config, protocol=4)) == Name(f"{Config.__module__}.Config")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02\x82\x01.",  # EXT1: a class by number
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # BYTEARRAY8 of a terabyte: the end comes first
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x02K\x01K\x02K\x03s.",  # an item for a number
        b"\x80\x02K\x01K\x02a.",  # an element for a number
        b"\x80\x02(K\x01Q.",  # a reference that is no storage
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    ],
)
@both_forms
def test_odd_programs_raise_and_end(tmp_path, program, zipped):
    path = tmp_path / "w.pth"
    path.write_bytes(old_file(program, [], b""))
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", program)
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever; the caller tells it as a damaged file
        read_inert_checkpoint(path)


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        (["1"], old_numbers(1, 2, claimed=3)),  # longer than the file
        (["1"], old_numbers(1, 2, claimed=1 << 60)),
        (["1"], old_numbers(1, 2, claimed=-1)),
        (["1"], b""),
        ([], b""),  # the storage is missing
        (["9"], old_numbers(1, 2)),  # nothing refers to it
        ({"1": 1}, old_numbers(1, 2)),
        (["1"], old_numbers(1)),  # the tensor is longer than its storage
    ],
)
def test_old_files_with_damaged_storages_are_refused(tmp_path, keys, numbers):
    path = tmp_path / "w.pth"
    path.write_bytes(old_file(old_tensor(), keys, numbers))
    with pytest.raises(Exception):  # noqa: B017, PT011
        read_inert_checkpoint(path)
    with pytest.raises(WeightsError):
        load_checkpoint(path)


def test_a_window_shows_nothing_beside_it(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(old_file(old_tensor(b"(X\x01\x00\x00\x002K\x02K\x01t"), ["1"], old_numbers(1, 2, 3, 4)))
    with pytest.raises(RuntimeError, match="out of bounds"):
        read_inert_checkpoint(path)


def test_an_old_file_of_a_big_endian_machine_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    beside = pickle.dumps({"n": np.float64(1), "args": argparse.Namespace()}, protocol=2)
    path.write_bytes(old_file(beside, [], b"", little_endian=False))
    with pytest.raises(WeightsError, match="big-endian"):
        load_checkpoint(path)


def test_an_old_file_with_an_archive_behind_it_is_read_as_torch_load_reads_it(tmp_path):
    """A zip is known by its end, too: what checks the file must look at the part that is loaded."""
    program = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."
    good = saved({"model": weights()}, tmp_path / "good.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(old_file(program, [], b"") + good)
    assert zipfile.is_zipfile(tmp_path / "w.pth")
    with pytest.raises(UnsafeCheckpointError, match="bytearray"):
        load_checkpoint(tmp_path / "w.pth")


def test_a_key_nested_a_million_deep_is_not_hashed():
    deep = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
    assert read_inert(deep) == {}


def test_laughs_by_the_billion_are_one_list_each():
    tripled = b"".join(b"](h%ch%ch%ceq%c" % (n, n, n, n + 1) for n in range(60))  # each holds the one before it thrice
    outer = read_inert(b"\x80\x02]q\x00K\x01a" + tripled + b".")
    assert outer[0] is outer[1] is outer[2]


@pytest.mark.parametrize("change", [(b"K\x03", b"K\x7f")])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, change):
    path = saved({"model": {"w": torch.ones(3)}, "n": np.int8(1)}, tmp_path / "w.pth")
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(tmp_path / "bad.pth", "w") as bad:
        for member in good.infolist():
            content = good.read(member)
            bad.writestr(member.filename, content.replace(*change) if member.filename.endswith("data.pkl") else content)
    with pytest.raises(WeightsError):
        load_checkpoint(tmp_path / "bad.pth")
