"""What a run offers to type next is nothing that it warned of."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_bundle import small_network, write_bundle

from exporter.errors import EngineCheckError
from exporter.target import TARGETS
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.job import _build_engine
from resnet_export.export_job.measure import MeasuredRow, warn_of_poor_agreement
from resnet_export.export_job.refused_forms import ANY_ENGINE
from resnet_export.export_job.write_bundle import next_command
from resnet_export.images.image_set import image_folder
from resnet_export.main import main

INT8, BOTH, FP16 = "model.int8.onnx", "model.int8.fp16.onnx", "model.fp16.onnx"


def options(words="int8 fp16", **more):
    asked = dict.fromkeys(words.split(), True)
    calib = image_folder(Path("calib")) if "int8" in asked else None
    return ExportOptions(model="resnet18", calib=calib, output=Path("my out"), **asked, **more)


@pytest.mark.parametrize(
    ("words", "doubted", "offered"),
    [
        ("int8 fp16", [], "build my out --int8 --fp16"),
        ("int8 fp16", [BOTH], "build my out --int8"),
        ("int8 fp16", [BOTH, INT8], "build my out --fp16"),
        ("int8 fp16", [INT8], "build my out --int8 --fp16"),
        ("int8", [INT8], "build my out --fp32"),
        ("fp16", [FP16], "build my out --fp32"),
        ("fp16", [FP16, "model.onnx"], "verify my out --bisect"),
        ("int8 fp16 dla", [BOTH], "build my out --int8 --dla 0 --batch 8"),
        ("int8 fp16 dla", ["model.int8.dla.onnx"], "build my out --fp16 --dla 0 --batch 8"),
        ("int8 dla", ["model.int8.dla.onnx"], "build my out --int8"),
    ],
)
def test_the_lowest_precision_that_was_not_warned_of_is_offered(words, doubted, offered):
    target = TARGETS["jetpack6" if "dla" in words else "tensorrt"]
    command = next_command(options(words, target=target), doubted).removesuffix("   (on the device)")
    assert " ".join(shlex.split(command)) == f"resnet-export {offered}"


def test_no_engine_is_built_of_a_file_that_was_warned_of():
    reporter = Reporter()
    reporter.warn("ONNX INT8+FP16 agrees with few", doubted=[BOTH])
    run = SimpleNamespace(options=options(engine=True), reporter=reporter)
    with pytest.raises(EngineCheckError, match=r"not built.*model\.int8\.fp16\.onnx; next: .*build 'my out' --int8 "):
        _build_engine(run)


@pytest.mark.parametrize(
    ("target", "doubted", "file"),
    [("onnxruntime", [], INT8), ("onnxruntime", [INT8], FP16), ("tensorrt", [ANY_ENGINE, BOTH], INT8)],
)
def test_where_no_engine_is_to_be_built_a_file_is_opened(target, doubted, file):
    assert f'OrtRuntime("my out/{file}")' in next_command(options(target=TARGETS[target]), doubted)


def test_a_row_of_poor_agreement_puts_its_file_in_doubt_only_where_it_is_the_file_as_written():
    poor, good = (SimpleNamespace(agreement=share, num_images=10) for share in (0.5, 1.0))
    rows = [
        MeasuredRow("PyTorch FP32", None, good, None),
        MeasuredRow("ONNX FP16", FP16, good, None),
        MeasuredRow("ONNX INT8", INT8, good, None),
        MeasuredRow("ONNX INT8, plain session", INT8, poor, None, is_plain=True),
        MeasuredRow("ONNX INT8+FP16", BOTH, poor, None),
        MeasuredRow("ONNX FP16, OpenVINO", FP16, poor, None, is_elsewhere=True),
        MeasuredRow("INT8 default", INT8, poor, None),
    ]
    warn_of_poor_agreement(rows, "PyTorch", reporter := Reporter())
    assert reporter.doubted == {BOTH}
    assert [warning.split(" agrees")[0] for warning in reporter.warnings] == [row.name for row in rows[3:]]


def test_a_folder_with_a_space_is_one_word_of_the_command(tmp_path, capsys):
    write_bundle(tmp_path / "b", {"fp32": small_network()})
    assert main(["triton", str(tmp_path / "b"), "-o", str(tmp_path / "my models")]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next:")]
    assert shlex.split(told) == ["next:", "tritonserver", f"--model-repository={tmp_path / 'my models'}"]
