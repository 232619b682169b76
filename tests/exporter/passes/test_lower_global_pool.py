import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx.reference import ReferenceEvaluator

from exporter.passes.lower_global_pool import average_pool_from_global


def pooled(size):
    made = GraphBuilder(channels=3, size=size)
    made.node("GlobalAveragePool", "pool", made.conv("conv", "input", 4))
    return made.model("pool")


@pytest.mark.parametrize("size", [1, 7, 8, 13])
def test_same_answers_as_the_reference_evaluator_gives(size):
    model = pooled(size)
    before = model.SerializeToString()
    result = average_pool_from_global(model)
    onnx.checker.check_model(result.model, full_check=True)
    images = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    expected, got = (ReferenceEvaluator(which).run(None, {"input": images})[0] for which in (model, result.model))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert got.shape == (3, 4, 1, 1)
    assert result.windows == {"pool": (size, size)}
    assert model.SerializeToString() == before


def test_nothing_to_do():
    made = GraphBuilder(channels=3, size=8)
    made.conv("conv", "input", 4)
    model = made.model("conv")
    result = average_pool_from_global(model)
    assert result.windows == {}
    assert result.model == model


def test_a_window_of_unknown_size_is_refused():
    model = pooled(8)
    for infos in (model.graph.input, model.graph.output, model.graph.value_info):
        for info in infos:
            for dim in info.type.tensor_type.shape.dim[2:]:
                dim.dim_param = "side"
    del model.graph.value_info[:]
    with pytest.raises(ValueError, match="fixed height and width"):
        average_pool_from_global(model)
