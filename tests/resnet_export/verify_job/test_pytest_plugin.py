"""The pytest plugin, run by pytest's own pytester on the demo's bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from broken_bundles import with_scaled_activations

pytest_plugins = ["pytester"]

PLUGIN = "resnet_export.verify_job.pytest_plugin"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(pytester):
    """Run pytest in the test's folder, the plugin loaded by its entry point where the package is installed so."""
    installed = any(entry.value == PLUGIN for entry in metadata.entry_points(group="pytest11"))
    load = () if installed else ("-p", PLUGIN)
    return lambda *words: pytester.runpytest_inprocess(*load, "-p", "no:cacheprovider", "-rA", *map(str, words))


def broken_copy(bundle: Path, folder: Path) -> Path:
    return with_scaled_activations(bundle, folder / "broken", 40)


def test_one_item_per_file_and_gate(run, pytester, digits_bundle):
    result = run("--resnet-export-bundle", digits_bundle, "--collect-only", "-q")
    items = [line.rpartition("digits-int8::")[2] for line in result.outlines if "digits-int8::" in line]
    assert items == [
        "bundle::checks",
        "model.onnx::relative_max_diff",
        "model.int8.onnx::sqnr_db",
        "model.int8.onnx::agreement",
        "model.int8.onnx::top1_drop_pp",
    ]


def test_gates_pass_and_what_cannot_be_judged_is_skipped(run, digits_bundle):
    result = run("--resnet-export-bundle", digits_bundle)
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*top-1 drop: not judged, the images have no labels*"])


def test_gates_on_labelled_images_beside_ordinary_tests(run, pytester, digits_bundle, digits_folder):
    pytester.makepyfile("def test_mine(): pass")
    result = run(
        "--resnet-export-bundle",
        digits_bundle,
        "--resnet-export-val",
        digits_folder / "val",
        "--resnet-export-gate",
        "int8.top1_drop_pp=3",
        ".",
    )
    result.assert_outcomes(passed=6)


def test_items_are_chosen_by_name(run, digits_bundle):
    run("--resnet-export-bundle", digits_bundle, "-k", "sqnr_db").assert_outcomes(passed=1, deselected=4)


def test_a_bundle_below_the_folder_is_collected_once(run, pytester, digits_bundle):
    shutil.copytree(digits_bundle, pytester.path / "bundle")
    run("--resnet-export-bundle", "bundle", "-k", "sqnr_db or checks", ".").assert_outcomes(passed=2, deselected=3)


def test_a_broken_bundle_fails_and_says_why(run, pytester, digits_bundle):
    broken = broken_copy(digits_bundle, pytester.path)
    result = run("--resnet-export-bundle", broken)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*fail: model.int8.onnx, golden: SQNR * is below 20.0 dB*"])
    result.stdout.fnmatch_lines(["*fail: bundle, file: * activation scales are not the calibrated*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_gate_of_one_s_own(run, digits_bundle):
    result = run("--resnet-export-bundle", digits_bundle, "--resnet-export-gate", "int8.sqnr_db=90")
    result.assert_outcomes(passed=2, failed=1, skipped=2)


def test_no_bundle_is_wrong_use(run, pytester):
    result = run("--resnet-export-bundle", pytester.path)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*expected a bundle*"])


def test_the_fixture(run, pytester, digits_bundle, digits_folder):
    broken = broken_copy(digits_bundle, pytester.path)
    pytester.makepyfile(
        f"""
        import numpy as np
        import pytest
        from runtimes import OrtRuntime

        def test_it_answers_like_pytorch(assert_parity):
            gates = {{"int8.top1_drop_pp": 3}}
            report = assert_parity(
                {str(digits_bundle)!r}, val={str(digits_folder / "val")!r}, precision="int8", gates=gates
            )
            assert report["verdict"] == "pass"

        def test_a_broken_one_does_not(assert_parity):
            with pytest.raises(AssertionError, match="SQNR .* is below"):
                assert_parity({str(broken)!r}, precision="int8")

        def test_a_gate(assert_parity):
            with pytest.raises(AssertionError, match="is below 90"):
                assert_parity({str(digits_bundle)!r}, gates={{"int8.sqnr_db": 90}})

        def test_a_runtime_of_my_own(assert_parity):
            with OrtRuntime({str(digits_bundle / "model.int8.onnx")!r}, exact_qdq=True) as runtime:
                report = assert_parity({str(digits_bundle)!r}, runtime=runtime)
            assert report["metrics"]["num_images"] == 16

        def test_a_runtime_that_answers_otherwise(assert_parity):
            class Wrong(OrtRuntime):
                def run(self, inputs):
                    return {{name: -logits for name, logits in super().run(inputs).items()}}

            with Wrong({str(digits_bundle / "model.onnx")!r}) as runtime:
                with pytest.raises(AssertionError, match="Wrong does not answer like PyTorch"):
                    assert_parity({str(digits_bundle)!r}, runtime=runtime)
        """
    )
    run().assert_outcomes(passed=5)


def test_without_the_option_nothing_is_collected_and_nothing_heavy_imported():
    script = (
        f"import sys, {PLUGIN}\n"
        "names = 'numpy onnx onnxruntime torch tensorrt rich runtimes.bundle runtimes.inference'.split()\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_names_the_plugin():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\nresnet_export = "{PLUGIN}"' in text
