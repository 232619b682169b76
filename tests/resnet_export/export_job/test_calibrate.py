"""Where calibration runs: --calib-provider."""

import pytest
from graph_builder import GraphBuilder

from resnet_export.export_job import calibrate as calibrate_images
from resnet_export.export_job.calibrate import calibration_runtime
from resnet_export.main import main
from runtimes.errors import ProviderUnavailableError
from runtimes.ort.adapter import OrtRuntime


def test_on_the_cpu_it_is_the_plain_runtime():
    assert calibration_runtime("cpu") is OrtRuntime


def test_without_a_gpu_nothing_starts(tmp_path, capsys):
    (tmp_path / "calib").mkdir()
    words = ["cifar_resnet20", "--weights", "random", "--int8", "--calib", str(tmp_path / "calib"), "--force"]
    assert main([*words, "--calib-provider", "cuda", "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "CUDAExecutionProvider needs an NVIDIA GPU" in told
    assert not (tmp_path / "out").exists()


def test_it_is_refused_where_nothing_is_calibrated(capsys):
    assert main(["resnet18", "--calib-provider", "cuda"]) == 2
    assert "--calib-provider says where INT8 is calibrated" in capsys.readouterr().err


def test_with_a_gpu_cuda_comes_first_and_without_tf32(monkeypatch):
    """That the session then runs there is checked by OrtRuntime, which refuses a provider that does not load."""
    asked = []
    monkeypatch.setattr(calibrate_images, "check_machine", asked.append)
    monkeypatch.setattr(calibrate_images, "prepare_libraries", asked.append)
    found = calibration_runtime("cuda")
    assert asked == ["cuda", "cuda"]
    assert found.keywords["providers"] == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert found.keywords["provider_options"][0] == {"use_tf32": "0"}
    build = GraphBuilder()
    with pytest.raises(ProviderUnavailableError, match="CUDAExecutionProvider"):
        found(build.model(build.conv("conv", "input", 2)))
