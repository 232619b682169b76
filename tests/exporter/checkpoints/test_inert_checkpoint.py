"""Checkpoints as training scripts write them: what stands beside the weights is read and never run."""

import argparse
import collections
import datetime
import enum
import functools
import io
import operator
import pickle
import pickletools
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


def saved(payload, path: Path, **options) -> Path:
    torch.save(payload, path, **options)
    return path


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


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_what_scripts_store_beside_the_weights(tmp_path, name, protocol):
    path = saved({"model": weights(), "beside": BESIDE[name]}, tmp_path / "w.pth", pickle_protocol=protocol)
    assert_weights(load_checkpoint(path).state_dict)


def test_all_of_it_at_once_with_an_optimizer(tmp_path):
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
    assert_weights(load_checkpoint(saved(payload, tmp_path / "w.ckpt")).state_dict)


def test_values_that_come_out(tmp_path):
    read = read_inert_checkpoint(saved({**BESIDE, "model": weights()}, tmp_path / "w.pth"))
    assert read["namespace"] == {"lr": 0.1, "output": "runs/1", "mean": [0.5, 0.5]}
    assert (read["float64"], read["float32"], read["int64"], read["bool"]) == (74.6, 0.5, 3, True)
    assert read["path"] == "a/b"
    assert read["config"] == {"model": "resnet18"}
    assert read["default"] == {"a": 1}
    assert read["deque"] == [1, 2]
    assert read["class"] == Opaque("torch.nn.modules.activation.ReLU")
    assert read["date"] == Opaque("datetime.datetime")
    assert read["bytes"] == b"\xff\x00"


def test_only_plain_values_come_out(tmp_path):
    read = read_inert_checkpoint(saved({**BESIDE, "model": weights()}, tmp_path / "w.pth"))
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64])
def test_tensors_of_every_kind_are_those_of_torch_load(tmp_path, dtype):
    base = torch.arange(24).reshape(4, 6).to(dtype)
    views = {"a": base, "b": base[1:, ::2], "c": base.t(), "d": base[0, 0], "e": base[:0], "p": base.clone()}
    read = read_inert_checkpoint(saved(views, tmp_path / "w.pth"))
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


def test_containers_that_hold_themselves(tmp_path):
    payload = {"model": weights(), "n": np.int8(1)}
    payload["self"] = [payload]
    assert_weights(load_checkpoint(saved(payload, tmp_path / "w.pth")).state_dict)


# Still refused


@pytest.mark.parametrize("protocol", [0, 2, 4])
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
def test_a_bomb_in_the_arguments_is_refused_and_does_not_go_off(tmp_path, call, args, named, protocol):
    target = tmp_path / "it_ran"
    filled = tuple(type(a)(str(a).format(str(target))) if isinstance(a, (str, Path)) else a for a in args)
    bomb = argparse.Namespace(hook=Runs(_function(call), *filled))
    path = saved({"model": weights(), "args": bomb}, tmp_path / "w.pth", pickle_protocol=protocol)
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


@pytest.mark.parametrize("beside", [{}, {"args": argparse.Namespace()}])
def test_a_whole_module_is_refused_by_name(tmp_path, beside):
    path = saved({"model": nn.Sequential(nn.Linear(2, 2)), **beside}, tmp_path / "w.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.container\.Sequential.*state_dict"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_weights_that_need_code_are_refused(tmp_path):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    payload = {"model": {**weights(), "q": quantized}, "args": argparse.Namespace()}
    with pytest.raises(UnsafeCheckpointError, match=r"its weight 'q'.*_rebuild_qtensor"):
        load_checkpoint(saved(payload, tmp_path / "w.pth"))


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
        b"\x80\x02]q\xff.",
        b"\x80\x02K\x01K\x02K\x03s.",  # an item for a number
        b"\x80\x02K\x01K\x02a.",  # an element for a number
        b"\x80\x02(K\x01Q.",  # a reference that is no storage
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    ],
)
def test_odd_programs_raise_and_end(program):
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever; the caller tells it as a damaged file
        _plain(program)


def _plain(program):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w/data.pkl", program)
    buffer.seek(0)
    read_inert_checkpoint(buffer)
    list(pickletools.genops(program))
    raise AssertionError("it was read")


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
