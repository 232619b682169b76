import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from exporter.errors import WeightsError
from exporter.networks.cifar_resnet import CifarResNet
from exporter.passes.float16 import float16_from_float32
from exporter.tracing.trace import trace
from runtimes.ort.adapter import OrtRuntime

RELATIVE_TOLERANCE = 5e-3
"""Of the largest |output|. Half precision rounds every value by up to 2^-11 = 4.9e-4 of it; ten layers deep."""


def model_of(nodes, *, initializers=None, outputs=("y",), inputs=("x",), output_type=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in inputs],
        [helper.make_tensor_value_info(name, output_type, ["batch", 3]) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in (initializers or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def typed(model):
    """Convert, and check what holds for every converted model."""
    before = model.SerializeToString()
    result = float16_from_float32(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)  # topological order among other things
    graph = result.model.graph
    assert graph.input == model.graph.input
    assert [info.name for info in graph.output] == [info.name for info in model.graph.output]
    kinds = [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)]
    assert kinds == [info.type.tensor_type.elem_type for info in (*model.graph.input, *model.graph.output)]
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}
    ends = {info.name for info in (*graph.input, *graph.output)}
    inner = {info.name: info.type.tensor_type.elem_type for info in graph.value_info if info.name not in ends}
    assert TensorProto.FLOAT not in inner.values()
    return result


def run(model, x):
    with OrtRuntime(model) as runtime:
        return runtime.run(dict.fromkeys(runtime.input_specs, x))


def assert_close(model, *, x=None):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) if x is None else x
    expected, got = run(model, x), run(float16_from_float32(model).model, x)
    assert expected.keys() == got.keys()
    for name, want in expected.items():
        assert got[name].dtype == want.dtype
        np.testing.assert_allclose(got[name], want, rtol=0, atol=RELATIVE_TOLERANCE * np.abs(want).max())


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return trace(CifarResNet(8).eval(), torch.zeros(2, 3, 32, 32), opset=17)[0]


def test_resnet_is_typed_throughout(resnet):
    result = typed(resnet)
    graph = result.model.graph
    assert result.num_changes == len(resnet.graph.initializer)
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.FLOAT16}
    assert [node.op_type for node in graph.node].count("Cast") == 2
    assert graph.node[0].op_type == graph.node[-1].op_type == "Cast"
    assert [node.name for node in graph.node[1:-1]] == [node.name for node in resnet.graph.node]
    assert result.model.ByteSize() < 0.55 * resnet.ByteSize()


def test_resnet_answers_as_in_float32(resnet):
    assert_close(resnet, x=np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32))


def test_weights_are_rounded_half_to_even():
    values = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 1e-8, 65504, -65504, 65504 - 16 + 1e-2])
    nodes = [helper.make_node("Gather", ["w", "i"], ["a"]), helper.make_node("Add", ["x", "a"], ["y"])]
    model = model_of(nodes, initializers={"w": values, "i": np.int64([0, 1, 2])})
    converted = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed(model).model.graph.initializer}
    assert converted["w"].tolist() == [1.0, 1 + 2**-9, 0.0, 65504.0, -65504.0, 65504.0]
    assert converted["i"].dtype == np.int64
    assert converted["i"].tolist() == [0, 1, 2]


def test_input_read_twice_and_by_one_node_twice():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("Relu", ["x"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes)
    assert [node.op_type for node in typed(model).model.graph.node] == ["Cast", "Mul", "Relu", "Add", "Cast"]
    assert_close(model)


def test_output_that_is_also_read():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    model = model_of(nodes, outputs=("y", "z"))
    graph = typed(model).model.graph
    assert [node.op_type for node in graph.node] == ["Cast", "Relu", "Neg", "Cast", "Cast"]
    assert graph.node[2].input[0] == graph.node[1].output[0]  # in FP16, not through the Cast back
    assert_close(model)


def test_two_inputs():
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], inputs=("x", "w"))
    typed(model)
    assert_close(model)


def test_integer_output_is_left_alone():
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)]
    result = typed(model_of(nodes, output_type=TensorProto.INT64))
    assert [node.op_type for node in result.model.graph.node] == ["Cast", "Cast"]


def test_constant_nodes_are_converted():
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([1, 2, 3])))
    model = model_of([constant, helper.make_node("Mul", ["x", "c"], ["y"])])
    assert typed(model).num_changes == 1
    assert_close(model)


@pytest.mark.parametrize(("value", "words"), [(65520.0, "65520"), (-1e6, "1e\\+06"), (np.nan, "nan")])
def test_value_outside_half_precision_is_named(value, words):
    model = model_of([helper.make_node("Mul", ["x", "big"], ["y"])], initializers={"big": np.float32([1, value, 1])})
    with pytest.raises(WeightsError, match=f"'big' holds {words}, more than FP16 can \\(65504\\); .*--fp16"):
        float16_from_float32(model)


@pytest.mark.parametrize("sign", [-1, 1])
def test_infinity_is_a_number_of_float16(sign):
    """A masked maximum, and a bound that is none: no warning of NumPy's, and the same answers."""
    bound = np.float32([sign * np.inf, 0.5, sign * np.inf])
    model = model_of(
        [helper.make_node("Max" if sign < 0 else "Min", ["x", "bound"], ["y"])], initializers={"bound": bound}
    )
    with np.errstate(all="raise"):
        half = typed(model).model
    assert np.array_equal(numpy_helper.to_array(half.graph.initializer[0]), bound.astype(np.float16))
    assert_close(model)


@pytest.mark.parametrize("value", [-1e9, np.finfo(np.float32).min, -np.inf])
@pytest.mark.parametrize("kind", ["Add", "Where", "Add twice"])
def test_masks_of_a_softmax_are_clipped(value, kind):
    mask = np.float32([0, value, 0])
    nodes = {
        "Add": [helper.make_node("Add", ["mask", "x"], ["m"])],
        "Where": [helper.make_node("Where", ["where", "one", "x"], ["m"])],
        "Add twice": [helper.make_node("Add", ["x", "mask"], ["a"]), helper.make_node("Add", ["a", "mask"], ["m"])],
    }[kind]
    initializers = {"where": mask < 0, "one": np.float32(value)} if kind == "Where" else {"mask": mask}
    softmax = helper.make_node("Softmax", ["m"], ["y"], axis=-1)
    model = model_of([*nodes, softmax], initializers=initializers)
    assert_close(model)
    assert "masks of a Softmax that FP16 does not hold are -10000 there" in typed(model).skipped[-1]


@pytest.mark.parametrize("reader", ["Relu", "Exp", "graph"])
def test_masks_that_others_read_too_are_refused(reader):
    nodes = [helper.make_node("Add", ["x", "mask"], ["m"]), helper.make_node("Softmax", ["m"], ["s"], axis=-1)]
    if reader != "graph":
        nodes += [helper.make_node(reader, ["m"], ["r"]), helper.make_node("Add", ["r", "s"], ["y"])]
    outputs = ("m", "s") if reader == "graph" else ("y",)
    model = model_of(nodes, initializers={"mask": np.float32([0, -1e9, 0])}, outputs=outputs)
    with pytest.raises(WeightsError, match="'mask' holds 1e"):
        float16_from_float32(model)


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
def test_quantized_models_are_refused(kind):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = model_of(nodes, initializers={"s": np.float32(0.1), "z": np.int8(0)})
    del model.graph.node[0 if kind == "DequantizeLinear" else 1]
    with pytest.raises(ValueError, match="without Q/DQ nodes"):
        float16_from_float32(model)


def test_graph_without_weights():
    model = model_of([helper.make_node("Relu", ["x"], ["y"])])
    assert typed(model).num_changes == 0
    assert_close(model)


def test_sums_of_squares_do_not_overflow():
    """ConvNeXt V2 takes the norm of a whole feature map: 300^2 * 3 is beyond 65504, its root is not."""
    nodes = [
        helper.make_node("ReduceL2", ["x", "axes"], ["norm"], name="norm", keepdims=1),
        helper.make_node("Div", ["x", "norm"], ["y"], name="div"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = np.full((4, 3), 300, np.float32)
    got = run(float16_from_float32(model).model, x)["y"]
    np.testing.assert_allclose(got, run(model, x)["y"], rtol=2e-3)


@pytest.mark.parametrize(
    ("opset", "node", "kept"),
    [
        (17, helper.make_node("Celu", ["r"], ["c"], alpha=0.5), True),
        (12, helper.make_node("Celu", ["r"], ["c"]), True),
        (13, helper.make_node("CumSum", ["r", "axis"], ["c"]), True),
        (14, helper.make_node("CumSum", ["r", "axis"], ["c"]), False),
        (17, helper.make_node("Elu", ["r"], ["c"]), False),
    ],
    ids=lambda value: getattr(value, "op_type", str(value)),
)
def test_what_onnx_does_not_define_for_fp16_stays_in_float32(opset, node, kept):
    nodes = [helper.make_node("Sin", ["x"], ["r"]), node, helper.make_node("Tanh", ["c"], ["y"])]
    axis = {"axis": np.array(1)} if len(node.input) > 1 else {}
    model = model_of(nodes, initializers=axis)
    model.opset_import[0].version = opset
    result = float16_from_float32(model).model
    onnx.checker.check_model(result, full_check=True)
    kinds = {info.name: info.type.tensor_type.elem_type for info in result.graph.value_info}
    middle = next(each for each in result.graph.node if each.op_type == node.op_type)
    assert (kinds[middle.output[0]] == TensorProto.FLOAT) == kept
    x = np.random.default_rng(3).normal(0, 2, (5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(result, x)["y"], run(model, x)["y"], atol=5e-3)


def test_a_cast_inside_follows():
    """A graph that casts to float32 itself is FP16 behind the cast too."""
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], name="whole", to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], name="back", to=TensorProto.FLOAT),
        helper.make_node("Add", ["back", "x"], ["y"], name="add"),
    ]
    typed(model_of(nodes))
    assert_close(model_of(nodes))
