import json

import pytest

from runtimes.errors import RuntimeAdapterError
from runtimes.trt.engine_layers import CONVOLUTION, OTHER, REFORMAT, EngineLayer, EngineLayers
from runtimes.trt.layer_times import EngineTimes, times_from_json, times_from_runs

LAYERS = EngineLayers(
    (
        EngineLayer("copy", REFORMAT, "INT8", ()),
        EngineLayer("conv1 + relu", CONVOLUTION, "INT8", ("conv1",)),
        EngineLayer("conv2", CONVOLUTION, "FP16", ("conv2",)),
        EngineLayer("pool", OTHER, "INT8", ("pool",)),
    )
)


def test_median_of_each_layer():
    runs = [[("a", 1.0), ("b", 5.0)], [("a", 3.0), ("b", 4.0)], [("a", 2.0), ("b", 90.0)]]
    times = times_from_runs(8, runs)
    assert times == EngineTimes(8, 3, {"a": 2.0, "b": 5.0})
    assert times.total_ms == 7.0


def test_a_name_that_comes_twice_is_summed():
    assert times_from_runs(1, [[("a", 1.0), ("a", 2.0)]]).layer_ms == {"a": 3.0}


@pytest.mark.parametrize("runs", [[], [[]], [[("a", 1.0)], [("b", 1.0)]], [[("a", 1.0)], []]])
def test_a_profiler_that_says_nothing_or_something_else_each_time(runs):
    with pytest.raises(RuntimeAdapterError, match="profiler reported"):
        times_from_runs(1, runs)


def test_by_precision_and_reformats_apart():
    times = EngineTimes(1, 1, {"copy": 1.0, "conv1 + relu": 4.0, "conv2": 7.0, "pool": 2.0, "signal": 0.5})
    assert times.by_precision(LAYERS) == {"FP16": 7.0, "INT8": 6.0, REFORMAT: 1.0, "?": 0.5}
    assert list(times.by_precision(LAYERS)) == ["FP16", "INT8", REFORMAT, "?"]
    assert sum(times.by_precision(LAYERS).values()) == times.total_ms
    assert [(layer.name, spent) for layer, spent in times.slowest(LAYERS, 2)] == [("conv2", 7.0), ("conv1 + relu", 4.0)]
    assert times.slowest(LAYERS, 9)[-1][0].nodes == ("signal",)


def test_json_comes_back():
    times = EngineTimes(4, 20, {"a": 0.25})
    assert times_from_json(json.dumps(times.to_json())) == times


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"batch": 1, "num_runs": 1, "layer_ms": {"a": NaN}}',
        '{"batch": "1", "num_runs": 1, "layer_ms": {}}',
    ],
)
def test_what_is_no_times_file(text):
    with pytest.raises(RuntimeAdapterError, match="cannot be read"):
        times_from_json(text)
