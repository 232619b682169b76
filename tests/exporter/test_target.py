import dataclasses

import pytest

from calibration.methods.dialect import Dialect
from exporter.errors import ExportError, UnsupportedOpsetError
from exporter.target import IR_VERSION_OF_OPSET, MIN_OPSET, TARGETS, check_opset
from exporter.tracing.export import ExportConfig

# What TensorRT reads: 8.5/8.6 <= 17, 10.0-10.3 <= 20. Source: onnx-tensorrt, docs/operators.md at those releases.
EXPECTED = {
    "tensorrt": (20, 20),
    "jetpack5": (17, 17),
    "jetpack6": (19, 20),
    "jetpack7": (20, 20),
    "onnxruntime": (20, 20),
}


def test_targets_are_the_documented_ones():
    assert {name: (target.opset, target.max_opset) for name, target in TARGETS.items()} == EXPECTED
    assert all(name == target.name for name, target in TARGETS.items())


@pytest.mark.parametrize("name", EXPECTED)
def test_target_by_name_reads_its_own_opset(name):
    target = TARGETS.named(name)
    assert target is TARGETS[name]
    check_opset(target, target.opset)
    check_opset(target, MIN_OPSET)
    check_opset(target, target.max_opset)


@pytest.mark.parametrize("name", ["TensorRT", "", "jetpack", "jetpack5 "])
def test_unknown_target_lists_all(name):
    with pytest.raises(ValueError, match=f"target: got {name!r}, expected one of {', '.join(EXPECTED)}"):
        TARGETS.named(name)


@pytest.mark.parametrize(
    ("name", "opset"),
    [("jetpack5", 18), ("jetpack5", 20), ("tensorrt", 21), ("tensorrt", MIN_OPSET - 1), ("jetpack6", 0)],
)
def test_opset_outside_the_range_is_refused_with_the_range(name, opset):
    target = TARGETS[name]
    with pytest.raises(UnsupportedOpsetError, match=f"opset {opset} does not fit target {name}: ") as caught:
        check_opset(target, opset)
    assert f"it reads opset {MIN_OPSET} to {target.max_opset} ({target.reads})" in str(caught.value)
    assert f"to get {target.opset}" in str(caught.value)
    assert isinstance(caught.value, ExportError)


def test_only_onnx_runtime_users_get_its_own_integer_kernels():
    assert [name for name, target in TARGETS.items() if not target.exact_int8_simulation] == ["onnxruntime"]


def test_constants_cannot_be_changed():
    with pytest.raises(TypeError):
        TARGETS["mine"] = TARGETS["tensorrt"]
    with pytest.raises(TypeError):
        IR_VERSION_OF_OPSET[20] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGETS["tensorrt"].opset = 1


def test_config_takes_the_targets_opset_unless_told():
    assert ExportConfig().resolved_opset == 20
    assert ExportConfig(TARGETS["jetpack5"]).resolved_opset == 17
    assert ExportConfig(TARGETS["jetpack6"], 17).resolved_opset == 17


def test_config_refuses_what_the_target_does_not_read():
    with pytest.raises(UnsupportedOpsetError):
        ExportConfig(TARGETS["jetpack5"], 18)
    with pytest.raises(UnsupportedOpsetError):
        ExportConfig(opset=0)  # not taken for "the target's own"


def test_every_dialect_is_one_that_calibration_writes():
    assert {target.dialect for target in TARGETS.values()} == {dialect.value for dialect in Dialect}
    assert [name for name, target in TARGETS.items() if target.dialect != "tensorrt"] == ["onnxruntime"]
