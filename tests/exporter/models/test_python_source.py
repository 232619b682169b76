import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from exporter.checkpoints.checkpoint import state_dict_sha256
from exporter.errors import ModelObjectError, PreprocessingError, UnknownModelError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.preprocessing.options import PreprocessingOptions

HALF = (0.5, 0.5, 0.5)
OPTIONS = PreprocessingOptions(16, None, HALF, HALF)

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

def build():
    return Net(6)

def sized(num_classes, width=8):
    return Net(num_classes)

def needs(width, *, depth):
    return Net()

def fails():
    raise KeyError("no such layer")

def number():
    return 5

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Maps(Net):
    def forward(self, x):
        return self.conv(x)

class Grey(Net):
    def forward(self, x):
        return super().forward(x[:, :1])

def on_meta():
    with torch.device("meta"):
        return Net()

ready = Net(3)
constant = "text"
"""


@pytest.fixture(autouse=True)
def _mine(tmp_path, monkeypatch):
    """A package `mine` with a module `nets` in the current folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "nets.py").write_text(SOURCE)
    (tmp_path / "mine" / "script.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "mine" / "broken.py").write_text("import torch\nraise RuntimeError('half written')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def mine_nets():
    """The module, imported as the test's own code would."""
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module("mine.nets")


def request(name, weights="DEFAULT", num_classes=None, options=OPTIONS):
    return ModelRequest(f"mine.nets:{name}", weights, num_classes, options)


@pytest.mark.parametrize(("name", "num_classes"), [("build", 6), ("Net", 4), ("ready", 3)])
def test_module_class_and_callable(name, num_classes):
    loaded = load_model(request(name))
    assert (loaded.model_id, loaded.source, loaded.num_classes) == (f"mine.nets.{name}", "python", num_classes)
    assert loaded.preprocessing.input_size == (16, 16)
    assert loaded.preprocessing_source == "the command line"
    assert loaded.weights == f"as mine.nets:{name} gives them (seed 0)"
    assert not loaded.module.training
    assert loaded.weights_sha256 == state_dict_sha256(loaded.module.state_dict())


def test_weights_of_a_ready_module_are_its_own():
    mine_nets().ready.head.bias.data.fill_(9)
    assert load_model(request("ready")).module.head.bias.tolist() == [9, 9, 9]


def test_random_weights_are_the_same_twice():
    first, second = load_model(request("Net", "random")), load_model(request("Net", "random"))
    assert first.weights_sha256 == second.weights_sha256
    assert first.weights == "random (seed 0)"


def test_number_of_classes_goes_to_the_callable():
    with pytest.raises(ModelObjectError, match="it needs the argument num_classes; pass --num-classes N"):
        load_model(request("sized"))
    assert load_model(request("sized", num_classes=9)).num_classes == 9
    with pytest.raises(ModelObjectError, match="it has 6 classes, --num-classes asks for 9"):
        load_model(request("build", num_classes=9))


def test_a_file(tmp_path):
    torch.manual_seed(2)
    trained = mine_nets().Net(7)
    save_file({f"module.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = load_model(request("Net", str(tmp_path / "w.safetensors")))
    assert loaded.num_classes == 7
    assert loaded.weights_sha256 == state_dict_sha256(trained.state_dict())
    with pytest.raises(WeightsError, match="do not fit"):
        load_model(request("build", str(tmp_path / "w.safetensors")))


def test_a_file_of_a_network_that_computes_while_it_is_built(tmp_path):
    (tmp_path / "mine" / "odd.py").write_text(
        "import numpy, torch\nfrom mine.nets import Net\n"
        "def build(num_classes=2):\n    assert torch.ones(2).numpy().sum() == 2\n    return Net(num_classes)\n"
    )
    save_file(mine_nets().Net(7).state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(ModelRequest("mine.odd:build", str(tmp_path / "w.safetensors"), None, OPTIONS))
    assert loaded.num_classes == 7


def test_a_file_of_the_callables_own_number_of_classes(tmp_path):
    save_file(mine_nets().build().state_dict(), tmp_path / "w.safetensors")
    assert load_model(request("build", str(tmp_path / "w.safetensors"))).num_classes == 6


def test_without_preprocessing_it_is_refused():
    with pytest.raises(PreprocessingError, match=r"mine\.nets:build; say .*--input-size, --mean, --std"):
        load_model(request("build", options=PreprocessingOptions()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.nets:needs", r"it needs the arguments width, depth; give a callable without"),
        ("mine.nets:fails", r"calling it raised KeyError: 'no such layer'"),
        ("mine.nets:number", r"it returned a int, expected a torch\.nn\.Module"),
        ("mine.nets:constant", r"got a str, expected a module, or a callable that returns one"),
        ("mine.nets:absent", r"mine\.nets has no 'absent'; it has .*build"),
        ("mine.nets:Net.absent", r"mine\.nets has no 'Net\.absent'"),
        ("mine.absent:build", r"mine\.absent cannot be imported \(ModuleNotFoundError"),
        ("mine.script:build", r"mine\.script cannot be imported \(SystemExit: 0\)"),
        ("mine.broken:build", r"mine\.broken cannot be imported \(RuntimeError: half written\)"),
        (
            "mine.nets:Pair",
            r"it gives 2 tensors \(0 \[2, 4\], 1 \[2, 3, 16, 16\] for 2 images\); say which with --outputs NAME",
        ),
        ("mine.nets:Grey", r"does not take images of float32 \[2, 3, 16, 16\]: RuntimeError"),
        ("mine.nets:on_meta", r"its weights are on meta, expected cpu"),
    ],
)
def test_objects_that_are_no_models(name, message):
    with pytest.raises(ModelObjectError, match=f"^{name}: .*{message}|^{name}: {message}"):
        load_model(ModelRequest(name, "DEFAULT", None, OPTIONS))


def test_weights_that_are_no_file():
    with pytest.raises(WeightsError, match="no published weights 'IMAGENET1K_V1'"):
        load_model(request("build", "IMAGENET1K_V1"))


def test_a_file_name_is_no_module():
    for name in ("nets.py:build", "mine/nets.py:build", "nets.py"):
        with pytest.raises(UnknownModelError, match=r"package\.module:callable, without \.py"):
            load_model(ModelRequest(name, "DEFAULT", None, OPTIONS))


def test_it_exports(tmp_path):
    from exporter.tracing.export import ExportConfig, export_loaded
    from runtimes import OrtRuntime

    loaded = load_model(request("build"))
    exported = export_loaded(loaded, ExportConfig())
    x = torch.rand(3, 3, 16, 16)
    with OrtRuntime(exported.onnx) as runtime, torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(runtime.run({"input": x.numpy()})["logits"]), loaded.module(x), rtol=1e-4, atol=1e-6
        )
    assert isinstance(loaded.module, nn.Module)
