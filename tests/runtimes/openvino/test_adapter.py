"""OpenVINO as a runtime: both INT8 dialects in integer kernels, float32 elsewhere, nothing saturates in silence."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from small_bundle import CLASSES, LABELS, SIZE, small_models, write_bundle
from weight_only import weight_only_layer

pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")

from runtimes import load
from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.openvino import adapter, openvino_library
from runtimes.openvino.adapter import OpenVinoRuntime
from runtimes.ort.int8_kernels import why_int8_saturates

HAS_VNNI = pytest.mark.skipif(bool(why_int8_saturates()), reason="this CPU has no VNNI: INT8 is computed in float")


@pytest.fixture(scope="module")
def models():
    return small_models()


@pytest.fixture(scope="module")
def bundle(models, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("openvino") / "bundle", models)


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(6, 3, SIZE, SIZE)).astype(np.float32)


def as_written(model, images):
    """The file's numbers, by ONNX Runtime without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


@pytest.fixture
def no_vnni(monkeypatch):
    for module in (openvino_library, adapter):
        monkeypatch.setattr(module, "why_int8_saturates", lambda: "a CPU without VNNI")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_answers_are_the_files(bundle, models, images, precision):
    expected = as_written(models[precision], images)
    with load(bundle, provider="openvino", precision=precision) as model:
        got = model.run({"input": images})["logits"]
    scale = np.abs(expected).max()
    assert scale > 0.1
    assert np.abs(got - expected).max() <= {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2}[precision] * scale


@HAS_VNNI
def test_int8_is_chosen_and_computed_in_integers(bundle):
    with load(bundle, provider="openvino") as model:
        told = model.describe()
    assert told.precision == "int8"
    assert told.runtime == "OpenVINO"
    assert not told.exact
    layers = [name for name in told.node_providers.values() if name.startswith(("Convolution", "FullyConnected"))]
    assert len(layers) == 2
    assert all(name.endswith(("u8", "i8")) for name in layers), told.node_providers
    assert any("2 of 2 convolutions" in note for note in told.notes)
    assert "openvino" in told.versions


@HAS_VNNI
def test_the_slower_dialect_is_told(bundle, models, tmp_path):
    other = write_bundle(tmp_path / "other", models, target="onnxruntime")
    for folder, is_told in ((bundle, True), (other, False)):
        with load(folder, provider="openvino") as model:
            assert any("--target onnxruntime" in note for note in model.describe().notes) == is_told


def test_a_file_alone_keeps_its_preprocessing_and_labels(bundle):
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    with load(bundle, provider="openvino", precision="fp32") as model:
        expected = model.classify(picture, channels="RGB")
    lone = bundle.parent / "lone.onnx"
    lone.write_bytes((bundle / "model.onnx").read_bytes())
    with load(lone, provider="openvino") as model:
        assert model.labels == LABELS
        assert model.classify(picture, channels="RGB") == expected


def test_float_stays_float32_unless_another_is_asked_for(bundle):
    with load(bundle, provider="openvino", precision="fp32") as model:
        told = model.describe()
        assert not any(name.endswith(("bf16", "f16")) for name in told.node_providers.values())
        assert told.notes == ()
    asked = {"INFERENCE_PRECISION_HINT": "bf16"}
    with load(bundle, provider="openvino", precision="fp32", provider_options=asked) as model:
        assert any("bf16" in note and "as asked" in note for note in model.describe().notes)


def test_without_vnni_int8_is_computed_as_written(bundle, models, images, no_vnni, logged):
    expected = as_written(models["int8"], images)
    with load(bundle, provider="openvino", precision="int8") as model:
        told = model.describe()
        got = model.run({"input": images})["logits"]
    assert told.exact
    assert not any(name.endswith(("u8", "i8")) for name in told.node_providers.values() if "Convolution" in name)
    assert any("no VNNI" in note for note in told.notes)
    assert "no VNNI" in logged.text
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@HAS_VNNI
def test_without_vnni_kernels_that_were_switched_on_are_refused(bundle, no_vnni):
    with pytest.raises(ProviderUnavailableError, match=r"2 layers.*may saturate.*nothing was run"):
        load(bundle, provider="openvino", precision="int8", provider_options={"LP_TRANSFORMS_MODE": "YES"})


def test_a_file_that_is_none_is_told_without_places_in_the_source(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x08:\x03abc")
    with pytest.raises(RuntimeAdapterError, match=r"OpenVINO does not load .*broken\.onnx") as caught:
        OpenVinoRuntime(broken)
    assert "Exception from src" not in str(caught.value)


def test_threads_are_passed_on(bundle):
    with load(bundle, provider="openvino", threads=1) as model:
        assert model.describe().threads == 1
        assert model.run({"input": np.zeros((1, 3, SIZE, SIZE), np.float32)})["logits"].shape == (1, CLASSES)


def test_inputs_are_told_apart_by_name():
    """They are set by place, so the order of a caller's mapping must not matter."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("b", "a", "difference")]
    node = helper.make_node("Sub", ["a", "b"], ["difference"])
    graph = helper.make_graph([node], "two", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    given = {"a": np.full((3, 2), 5, np.float32), "b": np.full((3, 2), 2, np.float32)}
    with OpenVinoRuntime(model) as runtime:
        for names in (("a", "b"), ("b", "a")):
            assert (runtime.run({name: given[name] for name in names})["difference"] == 3).all()


@pytest.mark.parametrize(("kind", "word"), [(TensorProto.INT64, "wrap"), (TensorProto.DOUBLE, "in float32")])
def test_types_that_openvino_narrows_are_warned_of(kind, word, tmp_path, logged):
    ends = [helper.make_tensor_value_info(name, kind, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "wide", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "wide.onnx").write_bytes(model.SerializeToString())
    with load(tmp_path / "wide.onnx", provider="openvino") as opened:
        assert any(word in note for note in opened.describe().notes)
    assert word in logged.text


def test_it_works_here():
    assert RUNTIMES["openvino"].probe(None).works


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_float_inputs_of_integer_weights_stay_float(kind):
    """By default OpenVINO rounds them to INT8: findings/openvino_weight_only_quantizes_inputs.sh."""
    model, x, expected = weight_only_layer(kind)
    with OpenVinoRuntime(model) as runtime:
        np.testing.assert_allclose(runtime.run({"input": x})["out"], expected, atol=1e-4)
    if why_int8_saturates():
        return  # without VNNI OpenVINO leaves them alone
    by_default = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}
    with OpenVinoRuntime(model, properties=by_default) as runtime:
        assert np.abs(runtime.run({"input": x})["out"] - expected).max() > expected.std()
