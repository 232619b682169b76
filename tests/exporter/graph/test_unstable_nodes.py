"""What is left of training in a graph is named; what is idle is not."""

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx import TensorProto, helper

from exporter.graph.unstable_nodes import unstable_nodes
from exporter.passes.canonicalize_ops import canonical_ops


def with_dropout(training, *, opset=13, how="initializer", ratio=0.5):
    graph = GraphBuilder(channels=3)
    ratio = "" if ratio is None else graph.constant("ratio", np.float32(ratio))
    if how == "initializer":
        flag = graph.constant("training", np.array(training))
    elif how == "node":
        value = helper.make_tensor("value", TensorProto.BOOL, [], [training])
        graph.nodes.append(helper.make_node("Constant", [], ["training"], name="training", value=value))
        flag = "training"
    else:
        source = graph.constant("number", np.int64(training))
        flag = graph.node("Cast", "training", source, to=TensorProto.BOOL)
    graph.node("Dropout", "drop", "input", ratio, flag)
    graph.channels["drop"] = 3
    return graph.model(graph.gemm("fc", "drop", 4), opset=opset)


@pytest.mark.parametrize("how", ["initializer", "node", "cast"])
@pytest.mark.parametrize("opset", [13, 17])
def test_dropout_in_training_mode_is_named_and_an_idle_one_goes(how, opset):
    found = [(node.name, what) for node, what in unstable_nodes(with_dropout(True, how=how, opset=opset).graph)]
    assert found == [("drop", "is a Dropout in training mode, which draws by chance")]
    idle = with_dropout(False, how=how, opset=opset)
    assert not list(unstable_nodes(idle.graph))
    if how == "initializer":  # what is computed is folded before
        assert "Dropout" not in [node.op_type for node in canonical_ops(idle).model.graph.node]


@pytest.mark.parametrize(("ratio", "told"), [(0.0, False), (0.1, True), (None, True)])
def test_a_dropout_of_ratio_0_passes_on_its_input(ratio, told):
    """Without a ratio it is 0.5. Source: ONNX, Operators.md, Dropout-13."""
    model = with_dropout(True, ratio=ratio)
    assert bool(list(unstable_nodes(model.graph))) == told
    assert ("Dropout" in [node.op_type for node in canonical_ops(model).model.graph.node]) == told


def test_a_mode_that_the_caller_gives_is_training():
    model = with_dropout(False)
    model.graph.input.append(helper.make_tensor_value_info("training", TensorProto.BOOL, []))
    assert [node.name for node, _ in unstable_nodes(model.graph)] == ["drop"]


def test_noise_and_batchnorm_in_training():
    graph = GraphBuilder(channels=3)
    noisy = graph.node("Add", "sum", "input", graph.node("RandomNormalLike", "noise", "input"))
    graph.channels[noisy] = 3
    assert [what for _, what in unstable_nodes(graph.model(noisy).graph)] == ["draws by chance (RandomNormalLike)"]
    graph = GraphBuilder(channels=3)
    names = [graph.constant(f"c{place}", np.ones(3, np.float32)) for place in range(4)]
    graph.nodes.append(helper.make_node("BatchNormalization", ["input", *names], ["bn"], name="bn", training_mode=0))
    assert not list(unstable_nodes(graph.model("bn").graph))
