"""Networks that take something else than RGB in NCHW on the scale 0-1, or give something else than logits."""

import sys
import types
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from graph_builder import GraphBuilder
from onnx import numpy_helper
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

from exporter.errors import ModelObjectError, OnnxFileError, PreprocessingError
from exporter.models.check_images import load_check_images
from exporter.models.load_model import load_any, load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.module_source import load_module
from exporter.networks.cifar_resnet import CifarResNet
from exporter.preprocessing.options import PreprocessingOptions, assumed_resize
from exporter.tracing.export import ExportConfig, export_loaded
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import Preprocessing, band_pixels, normalize, pixels

SIDE = 16
OPTIONS = PreprocessingOptions(input_size=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def answers(loaded, inputs):
    """Return what the exported file gives, after its layout was checked against the module's answer."""
    exported = export_loaded(loaded, ExportConfig())
    session = ort.InferenceSession(exported.onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: inputs})
    with torch.inference_mode():
        given = loaded.module(torch.from_numpy(inputs))
    given = given if isinstance(given, tuple) else (given,)
    for mine, expected in zip(got, given, strict=True):
        np.testing.assert_allclose(mine, expected.numpy(), rtol=1e-4, atol=1e-5)
    return exported.onnx, got


# Channels


@pytest.mark.parametrize("channels", [1, 7])
def test_a_file_of_other_channels_loads_into_a_named_model(tmp_path, channels):
    torch.manual_seed(0)
    module = CifarResNet(20, 5)
    module.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    torch.save(module.eval().state_dict(), tmp_path / "w.pth")
    options = PreprocessingOptions(input_size=SIDE, mean=(0.5,) * channels, std=(0.25,) * channels)
    loaded = load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.pth"), preprocessing=options))
    assert loaded.preprocessing.input_shape == (channels, SIDE, SIDE)
    images = load_check_images(loaded.preprocessing)[:2]
    assert images.shape == (2, channels, SIDE, SIDE)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(torch.from_numpy(images)), module(torch.from_numpy(images)))
    answers(loaded, images)


def test_channels_without_mean_and_std_are_asked_for(tmp_path):
    module = CifarResNet(20, 5)
    module.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(PreprocessingError, match=r"takes 1 channel, .* say --mean and --std, 1 number each"):
        load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.pth")))


@pytest.mark.parametrize(("channels", "numbers"), [(1, 3), (3, 1), (4, 3)])
def test_a_mean_of_other_channels_than_the_onnx_file_takes_is_refused(channels, numbers, tmp_path):
    build = GraphBuilder(channels=channels, size=SIDE)
    onnx.save(build.model(build.gemm("fc", build.conv("conv", "input", 4), 5)), tmp_path / "model.onnx")
    options = PreprocessingOptions(mean=(0.5,) * numbers, std=(0.25,) * numbers)
    with pytest.raises(
        PreprocessingError, match=f"takes {channels} channels?, and --mean and --std give {numbers} numb"
    ):
        load_model(ModelRequest(str(tmp_path / "model.onnx"), preprocessing=options))


@pytest.mark.parametrize(("channels", "numbers", "example"), [(1, 3, "0.5"), (3, 1, "0.5,0.5,0.5"), (4, 3, "0.5,0.5,")])
@pytest.mark.parametrize("kind", ["checkpoint", "module", "callable"])
def test_which_of_network_and_mean_to_change_is_said(kind, channels, numbers, example, tmp_path, monkeypatch):
    """PyTorch's own words are "Given groups=1, weight of size [16, 1, 3, 3], expected input[2, 3, 16, 16] to ..."."""
    module = CifarResNet(20, 5)
    module.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    options = PreprocessingOptions(input_size=SIDE, mean=(0.5,) * numbers, std=(0.25,) * numbers)
    told = (
        rf"takes {channels} channels?, and --mean and --std give {numbers} numbers?; expected {channels} each\. .*"
        rf"--mean {example}.* --std .*if they have {numbers}, .*in_chans={numbers}"
    )
    torch.save(module.state_dict(), tmp_path / "w.pth")
    holder = types.ModuleType("holds_a_network_of_channels")
    holder.network = lambda: module
    monkeypatch.setitem(sys.modules, holder.__name__, holder)
    load = {
        "checkpoint": partial(
            load_model, ModelRequest("cifar_resnet20", str(tmp_path / "w.pth"), preprocessing=options)
        ),
        "module": partial(load_module, module, options),
        "callable": partial(load_model, ModelRequest(f"{holder.__name__}:network", preprocessing=options)),
    }[kind]
    with pytest.raises(PreprocessingError, match=told):
        load()


def test_a_module_that_fails_otherwise_keeps_its_own_words():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, images):
            return self.conv(images[:, :2])

    options = PreprocessingOptions(input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ModelObjectError, match="does not take images of float32"):
        load_module(Halves(), options)


def test_random_weights_with_as_many_channels_as_the_mean_has():
    options = PreprocessingOptions(mean=(0.5,), std=(0.2,))
    assert load_model(ModelRequest("cifar_resnet20", "random", preprocessing=options)).module.conv1.in_channels == 1


def test_grey_levels_are_pillows():
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    grey = Preprocessing((9, 7), None, OPTIONS.interpolation or _bilinear(), (0.5,), (0.2,))
    np.testing.assert_array_equal(pixels(grey, image)[..., 0], np.asarray(image.convert("L")))


def _bilinear():
    from runtimes.preprocessing.transform import Interpolation

    return Interpolation.BILINEAR


def test_bands_of_a_color_picture_are_its_pixels():
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    preprocessing = Preprocessing(18, (16, 12), _bilinear(), (0.5,) * 3, (0.2,) * 3)
    np.testing.assert_array_equal(band_pixels(preprocessing, array), pixels(preprocessing, Image.fromarray(array)))


# Size, order, scale


def test_a_rectangular_input_keeps_the_usual_share():
    old = Preprocessing(256, (224, 224), _bilinear(), (0.5,) * 3, (0.2,) * 3)
    new = PreprocessingOptions(input_size=(96, 192)).applied_to(old)
    assert (new.crop, new.resize) == ((96, 192), KeepRatio(110, 219, inside=False))
    alone = PreprocessingOptions(input_size=(96, 192), mean=(0.5,) * 3, std=(0.2,) * 3).complete("why")
    assert (alone.crop, alone.resize) == ((96, 192), KeepRatio(96, 192, inside=False))


def test_what_is_assumed_of_the_resize_is_said_with_the_flag_that_changes_it():
    old = Preprocessing(256, (224, 224), _bilinear(), (0.5,) * 3, (0.2,) * 3)
    options = PreprocessingOptions(input_size=96)
    new = options.applied_to(old)
    assert new.in_words.startswith("resize 110 shorter side bilinear, crop 96, RGB, mean 0.5, 0.5, 0.5, std 0.2")
    assert "resize 110, the usual 1.15 times 96" in assumed_resize(options, new)
    assert "--resize 96x96" in assumed_resize(options, new)
    exact = PreprocessingOptions(input_size=96, resize=(96, 96))
    assert assumed_resize(exact, exact.applied_to(old)) is None


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(("scale", "factor"), [(None, 1 / 255), (1.0, 1.0), (1 / 127.5, 1 / 127.5)])
def test_networks_of_other_orders_and_scales_answer_as_in_training(order, scale, factor):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
    if factor != 1.0:
        mean, std = tuple(m * factor for m in mean), tuple(s * factor for s in std)
    options = PreprocessingOptions(input_size=SIDE, mean=mean, std=std, color_order=order, scale=scale)
    loaded = load_any(module, weights="DEFAULT", num_classes=None, preprocessing=options)
    picture = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    as_trained = (picture[..., ::-1] if order == "BGR" else picture).astype(np.float32) * np.float32(factor)
    as_trained = (as_trained - np.float32(mean)) / np.float32(std)
    with torch.inference_mode():
        expected = module(torch.from_numpy(np.ascontiguousarray(as_trained.transpose(0, 3, 1, 2)))).numpy()
    model, (got,) = answers(loaded, normalize(loaded.preprocessing, picture))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert model.graph.node[0].op_type == "Conv"  # the order is folded into its weights


def test_a_scale_without_mean_and_std_is_refused():
    with pytest.raises(PreprocessingError, match="--scale says what --mean and --std are measured in"):
        PreprocessingOptions(scale=1.0)


# ONNX files


def onnx_file(path, *, opset=13, nhwc=True, order=("Conv",), outputs="float[N, 4] y"):
    generator = np.random.default_rng(7)
    constants = {
        "w": generator.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "v": generator.normal(size=(4, 8)).astype(np.float32),
    }
    shape, first = (
        ("N, 16, 16, 3", "t = Transpose <perm = [0, 3, 1, 2]> (x)") if nhwc else ("N, 3, 16, 16", "t = Relu (x)")
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: {4 if opset < 10 else 8}, opset_import: ["": {opset}]>
    net (float[{shape}] x) => ({outputs}) {{
      {first}
      a = Conv <pads = [1, 1, 1, 1]> (t, w)
      c = Relu (a)
      p = GlobalAveragePool (c)
      f = Flatten (p)
      y = Gemm <transB = 1> (f, v)
    }}"""
        if opset >= 11
        else f"""<ir_version: 4, opset_import: ["": {opset}]>
    net (float[{shape}] x) => ({outputs}) {{
      {first}
      a = Conv <pads = [1, 1, 1, 1]> (t, w)
      c = Relu (a)
      p = GlobalAveragePool (c)
      f = Flatten (p)
      y = Gemm <transB = 1> (f, v, u)
    }}"""
    )
    constants["u"] = generator.normal(size=4).astype(np.float32)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items() if k in used)
    if opset < 9:  # weights are inputs, too, in files of their time
        model.ir_version = 3
        weights = [(tensor.name, tensor.data_type, tensor.dims) for tensor in model.graph.initializer]
        model.graph.input.extend(onnx.helper.make_tensor_value_info(*weight) for weight in weights)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("nhwc", [True, False])
@pytest.mark.parametrize("opset", [7, 9, 10, 13])
def test_older_files_and_nhwc_answer_as_the_file_itself(tmp_path, opset, nhwc):
    path = onnx_file(tmp_path / "x.onnx", opset=opset, nhwc=nhwc)
    loaded = load_model(ModelRequest(str(path)))
    images = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    model, (got,) = answers(loaded, images)
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    own = images.transpose(0, 2, 3, 1) if nhwc else images
    np.testing.assert_allclose(got, plain.run(None, {"x": np.ascontiguousarray(own)})[0], rtol=1e-4, atol=1e-5)
    assert "Transpose" not in [node.op_type for node in model.graph.node]
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:] == [3, 16, 16]


def test_bgr_and_0_255_of_an_onnx_file(tmp_path):
    path = onnx_file(tmp_path / "x.onnx")
    options = PreprocessingOptions(mean=(103.9, 116.8, 123.7), std=(1.0, 1.0, 1.0), color_order="BGR", scale=1.0)
    loaded = load_model(ModelRequest(str(path), preprocessing=options))
    picture = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    _, (got,) = answers(loaded, normalize(loaded.preprocessing, picture))
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    as_trained = picture[..., ::-1].astype(np.float32) - np.float32(options.mean)
    np.testing.assert_allclose(got, plain.run(None, {"x": as_trained})[0], rtol=1e-4, atol=1e-3)


def test_several_outputs_of_an_onnx_file(tmp_path):
    path = onnx_file(tmp_path / "x.onnx", outputs="float[N, 4] y, float[N, 8, 16, 16] c")
    with pytest.raises(OnnxFileError, match=r"got 2 outputs \(y, c\).*--outputs NAME"):
        load_model(ModelRequest(str(path)))
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    logits = load_model(ModelRequest(str(path), outputs=("y",)))
    assert logits.gives_logits
    assert answers(logits, images)[1][0].shape == (2, 4)
    both = load_model(ModelRequest(str(path), outputs=("c", "y")))
    assert not both.gives_logits
    assert [output.shape for output in answers(both, images)[1]] == [(2, 8, 16, 16), (2, 4)]


# Modules


class Maps(nn.Module):
    """A small encoder and decoder, as segmentation networks are."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images):
        shallow = self.down(images)
        deep = nn.functional.interpolate(self.deep(shallow), size=shallow.shape[2:], mode="bilinear")
        return self.head(torch.cat([shallow, deep], 1))


class Dictionary(Maps):
    def forward(self, images):
        return {"out": super().forward(images), "aux": images.mean((2, 3))}


class Alike(Maps):
    def forward(self, images):
        return {"a b": super().forward(images), "a_b": images.mean((2, 3))}


class Pyramid(Maps):
    def forward(self, images):
        shallow = self.down(images)
        return {"0": shallow, "1": self.deep(shallow)}


class Pair(nn.Module):
    def forward(self, left, right):
        return left - right


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)

    def forward(self, video):
        return self.conv(video)


def load(module, **options):
    torch.manual_seed(0)
    return load_any(module.eval(), weights="DEFAULT", num_classes=None, preprocessing=OPTIONS, **options)


IMAGES = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize(
    ("module", "outputs", "names", "shapes"),
    [
        (Maps(), (), ("output",), [(2, 5, 8, 8)]),
        (Dictionary(), ("out",), ("out",), [(2, 5, 8, 8)]),
        (Pyramid(), ("1", "0"), ("output1", "output0"), [(2, 8, 4, 4), (2, 8, 8, 8)]),
    ],
)
def test_segmentation_dicts_and_pyramids(module, outputs, names, shapes):
    loaded = load(module, outputs=outputs)
    assert (loaded.outputs, loaded.gives_logits) == (names, False)
    model, got = answers(loaded, IMAGES)
    assert [output.shape for output in got] == shapes
    assert tuple(info.name for info in model.graph.output) == names
    assert "BatchNormalization" not in [node.op_type for node in model.graph.node]


def test_torchvisions_deeplab():
    """Its own head (dilated convolutions, image pooling) behind a small ResNet."""
    backbone = IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer2": "out"})
    network = DeepLabV3(backbone, DeepLabHead(128, 5)).eval()
    loaded = load(network, outputs=("out",))
    model, (got,) = answers(loaded, IMAGES)
    with torch.no_grad():
        expected = network(torch.from_numpy(IMAGES))["out"].numpy()
    assert got.shape == expected.shape == (2, 5, SIDE, SIDE)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert "BatchNormalization" not in [node.op_type for node in model.graph.node]


def test_one_logits_tensor_of_a_dict_keeps_its_top1():
    loaded = load(Dictionary(), outputs=("aux",))
    assert (loaded.gives_logits, loaded.num_classes) == (True, 3)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (
            Dictionary(),
            {},
            r"gives 2 tensors \(out \[2, 5, 8, 8\], aux \[2, 3\] for 2 images\); say which with --outputs",
        ),
        (Alike(), {"outputs": ("a b", "a_b")}, r"--outputs: 'a_b' would be called 'a_b', as another one is"),
        (Dictionary(), {"outputs": ("x",)}, r"--outputs x: it has no such output; it gives out"),
        (Pair(), {}, r"its forward takes 2 inputs \(left, right\), expected one"),
        (Video(), {}, r"holds Conv3d, so it takes videos"),
    ],
)
def test_what_is_refused_in_a_sentence(module, options, words):
    with pytest.raises(ModelObjectError, match=words):
        load(module, **options)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_is_quantized_already_is_refused():
    module = torch.ao.nn.quantized.Linear(3, 4)
    with pytest.raises(ModelObjectError, match=r"is quantized already .*give the float32 model"):
        load(nn.Sequential(nn.Conv2d(3, 3, 1), module))


def test_features_of_a_module_whose_output_is_a_dict():
    from exporter.tracing.features import with_features

    loaded = with_features(load(Dictionary(), checks_output=False), ("down",))
    assert answers(loaded, IMAGES)[1][0].shape == (2, 8, 8, 8)
