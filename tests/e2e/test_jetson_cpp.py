"""The Jetson example: its C++ preprocessing gives the pixels of `runtimes`, and its camera app reads a digit."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
import skimage.data
from cli_runs import ROOT
from numpy.typing import NDArray
from packaging.version import Version
from PIL import Image
from small_bundle import small_network
from small_bundle import write_bundle as small_bundle

from exporter.passes.pre_post_options import Finish
from runtimes import OrtRuntime
from runtimes.bundle.manifest import load_manifest
from runtimes.metrics.answer_kind import AnswerKind, kind_in
from runtimes.preprocessing.decode import read_image
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, preprocess

CPP = ROOT / "examples" / "jetson" / "cpp"
CAMERA = ROOT / "examples" / "jetson" / "camera.py"
CHECK_GOLDEN = ROOT / "examples" / "jetson" / "check_golden.py"

# One grey level is at least 1 / 255 / std, above 0.0039 for std <= 1: within 1e-6 the pixels are equal to the bit.
TOLERANCE = 1e-6

# width x height; odd, tiny, one pixel thin, wider and higher than they are cropped
SIZES = ((512, 512), (451, 300), (97, 131), (224, 224), (33, 5), (1, 7), (640, 427))
GEOMETRIES: tuple[tuple[int | tuple[int, int] | None, tuple[int, int] | None], ...] = (
    (256, (224, 224)),  # torchvision's, down for photographs and up for the small ones
    (32, (32, 32)),
    (41, (60, 47)),  # padding, odd on one axis
    (53, (20, 37)),  # a crop that begins between two pixels
    (None, (100, 255)),  # no resize: crop on some axes, padding on others
    ((224, 224), None),
    ((77, 301), None),  # an exact resize that changes the proportions
    ((300, 200), (224, 224)),
)


PILLOW_13 = pytest.mark.skipif(
    Version(PIL.__version__).major < 13,
    reason="the C++ follows Pillow 13, which resizes tall pictures rows first (python-pillow/Pillow#9549)",
)


AARCH64 = os.environ.get("RESNET_EXPORT_CPP_FOR") == "aarch64"
"""Whether the C++ is compiled for AArch64 and run by QEMU; tests/aarch64 asks for that."""

CROSS = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build `preprocess_ppm`; it needs a C++17 compiler and nothing else."""
    programs = ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64-static") if AARCH64 else ("cmake", "c++")
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed: the C++ preprocessing cannot be built")
    build = tmp_path_factory.mktemp("jetson-cpp")
    cross = CROSS if AARCH64 else ()
    for command in (
        ["cmake", "-S", CPP, "-B", build, "-DBUILD_CLASSIFY=OFF", "-DCMAKE_CXX_FLAGS=-Werror", *cross],
        ["cmake", "--build", build, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    built = build / "preprocess_ppm"
    if not AARCH64:
        return built
    emulated = build / "emulated"
    emulated.write_text(f'#!/bin/sh\nexec qemu-aarch64-static {built} "$@"\n')
    emulated.chmod(0o755)
    return emulated


@pytest.fixture(scope="module")
def digits_bundle(request: pytest.FixtureRequest) -> Path:
    return given_or_made(request, "RESNET_EXPORT_CPP_BUNDLE", "main_bundle")


@pytest.fixture(scope="module")
def golden_images(request: pytest.FixtureRequest) -> list[Path]:
    return sorted(given_or_made(request, "RESNET_EXPORT_CPP_IMAGES", "digits_folder").glob("*/*/*"))


def given_or_made(request: pytest.FixtureRequest, variable: str, fixture: str) -> Path:
    """Return what tests/aarch64 has made already, or what the fixture makes."""
    made = os.environ.get(variable) or request.getfixturevalue(fixture)
    return Path(made)


def photographs() -> list[Image.Image]:
    """Three pictures with fine detail, each of `SIZES` once, cut and not resized."""
    names = ("astronaut", "chelsea", "coffee")
    pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    return [pictures[place % 3].crop((0, 0, *size)) for place, size in enumerate(SIZES)]


def write_bundle(folder: Path, **changes: object) -> Path:
    """Write the part of a bundle that the C++ reads, with `preprocessing` or other keys changed."""
    folder.mkdir(exist_ok=True)
    content: dict[str, object] = {
        "schema_version": 1,
        "model": {"num_classes": 10, "weights": 'é \U0001f600 \\ "quoted" \n'},
        "preprocessing": imagenet().to_json(),
        "inputs": [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 224, 224]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "options": {"softmax": False},
        "parity": {"numbers": [0, -1, 1.5e-7, True, None, [], {}]},
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def imagenet(
    resize: int | tuple[int, int] | None = 256,
    crop: tuple[int, int] | None = (224, 224),
    interpolation: Interpolation = Interpolation.BILINEAR,
) -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, IMAGENET_MEAN, IMAGENET_STD)


def run(tool: Path, bundle: Path, image: Image.Image, folder: Path) -> subprocess.CompletedProcess[str]:
    image.save(folder / "image.ppm")
    command = [tool, bundle, folder / "image.ppm", folder / "out.f32"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def prepared_by_cpp(
    tool: Path, bundle: Path, image: Image.Image, folder: Path, size: tuple[int, int]
) -> NDArray[np.float32]:
    done = run(tool, bundle, image, folder)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "out.f32", dtype=np.float32).reshape(3, *size)


@PILLOW_13
@pytest.mark.parametrize("interpolation", list(Interpolation), ids=lambda value: value.value)
def test_cpp_prepares_photographs_as_python_does(tool: Path, tmp_path: Path, interpolation: Interpolation) -> None:
    worst = 0.0
    pictures = photographs()
    for place, (resize, crop) in enumerate(GEOMETRIES):
        preprocessing = imagenet(resize, crop, interpolation)
        bundle = write_bundle(tmp_path / "bundle", preprocessing=preprocessing.to_json())
        every = 1 if interpolation is Interpolation.BILINEAR else 3
        for image in pictures[place % every :: every]:  # of other interpolations a third, every size at least twice
            got = prepared_by_cpp(tool, bundle, image, tmp_path, preprocessing.input_size)
            expected = preprocess(preprocessing, image)
            assert np.abs(expected).max() > 0.1
            difference = float(np.abs(got - expected).max())
            assert difference <= TOLERANCE, f"{image.size}, resize {resize}, crop {crop}: {difference}"
            worst = max(worst, difference)
    print(f"{interpolation.value}: largest difference {worst:.3g}")


@PILLOW_13
def test_cpp_prepares_random_sizes_as_python_does(tool: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        width, height, side, crop_height, crop_width = (int(value) for value in generator.integers(1, 400, 5))
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        side = min(side, 3 * min(width, height))
        resize = side if generator.random() < 0.5 else (side, crop_width)
        interpolation = Interpolation(generator.choice([item.value for item in Interpolation]))
        preprocessing = imagenet(resize, (crop_height, crop_width), interpolation)
        bundle = write_bundle(tmp_path / "bundle", preprocessing=preprocessing.to_json())
        got = prepared_by_cpp(tool, bundle, image, tmp_path, preprocessing.input_size)
        difference = float(np.abs(got - preprocess(preprocessing, image)).max())
        assert difference <= TOLERANCE, f"{image.size}, {preprocessing}: {difference}"


def test_cpp_prepares_the_golden_inputs_of_a_bundle(
    tool: Path, tmp_path: Path, digits_bundle: Path, golden_images: list[Path]
) -> None:
    golden = np.load(digits_bundle / "golden.npz")["input"]
    preprocessing = load_manifest(digits_bundle).preprocessing
    found = set()
    for path in golden_images:
        expected = preprocess(preprocessing, read_image(path))
        matches = np.flatnonzero((golden == expected).all(axis=(1, 2, 3)))
        if matches.size == 0:
            continue
        got = prepared_by_cpp(tool, digits_bundle, read_image(path), tmp_path, preprocessing.input_size)
        assert np.abs(got - golden[matches[0]]).max() <= TOLERANCE, path
        found.update(matches.tolist())
    assert len(found) == len(golden), "every golden input is one of the images"


def changed(**changes: object) -> dict[str, object]:
    return {"preprocessing": {**imagenet().to_json(), **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "got schema 2, this version reads 1"),
        ({"schema_version": "1"}, "schema_version: got a string"),
        ({"preprocessing": {}}, "expected exactly color_order"),
        (changed(extra=1), "extra"),
        (changed(color_order="BGR"), 'got "BGR", expected "RGB"'),
        (changed(interpolation="area"), 'got "area"'),
        (changed(resize={"shorter_side": 256.0}), "expected a whole number"),
        (changed(resize={"shorter_side": True}), "expected a whole number"),
        (changed(resize={"shorter_side": 2**31}), "expected a whole number > 0"),
        (changed(resize={"shorter_side": 2**64}), "beyond 64 bits"),
        (changed(crop={"height": 0, "width": 5}), "expected a whole number > 0"),
        (changed(crop=None), "neither crop nor an exact resize"),
        (changed(resize={"inside": {"height": 224, "width": 224}}), "resize: got the keys inside, expected exactly"),
        (changed(resize={"cover": {"height": 224, "width": 200}}), "resize: got the keys cover, expected exactly"),
        (
            changed(crop={"height": 224, "width": 224, "fill": [124, 116, 104]}),
            "crop: got the keys fill, height, width",
        ),
        (changed(std=[1, 1, 0]), "std"),
        (changed(std=[1e-60, 1, 1]), "std"),
        (changed(mean=[0.5, 0.5]), "three numbers"),
        (changed(mean=[0.5, 0.5, float("nan")]), "not JSON"),
        ({"inputs": []}, "expected one input"),
        ({"inputs": [{"name": "images", "dtype": "uint8"}]}, 'input dtype: got "uint8", expected "float32"'),
        ({"options": {"softmax": 1}}, "softmax: got an integer, expected true or false"),
        ({"model": {"num_classes": 10, "answers": "features"}}, 'answers: got "features", expected one of log'),
    ],
)
def test_cpp_refuses_a_manifest_it_does_not_know(
    tool: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    done = run(tool, write_bundle(tmp_path / "bundle", **changes), Image.new("RGB", (9, 9)), tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out.f32").exists()


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("answers", [None, *(kind for kind in AnswerKind if kind is not AnswerKind.FEATURES)])
@pytest.mark.skipif(AARCH64 or shutil.which("c++") is None, reason="needs a compiler for this machine")
def test_cpp_applies_softmax_once(tmp_path: Path, answers: AnswerKind | None, softmax: bool) -> None:
    """What the app prints in percent: of a model that gives probabilities it was their softmax."""
    model = {"num_classes": 3} if answers is None else {"num_classes": 3, "answers": answers.value}
    bundle = write_bundle(tmp_path / "bundle", model=model, options={"softmax": softmax})
    (tmp_path / "probe.cpp").write_text(
        '#include <cstdio>\n#include "preprocess.hpp"\nint main(int, char** words) {\n'
        "  for (double each : resnet::probabilities(resnet::load_manifest(words[1]), {0.7F, 0.2F, 0.1F}))\n"
        '    std::printf("%.17g\\n", each);\n}\n'
    )
    sources = [CPP / f"{name}.cpp" for name in ("preprocess", "json", "resample")]
    command = ["c++", "-std=c++17", "-I", CPP, tmp_path / "probe.cpp", *sources, "-o", tmp_path / "probe"]
    assert subprocess.run(command, check=False).returncode == 0
    done = subprocess.run([tmp_path / "probe", bundle], capture_output=True, text=True, check=True)
    kind = kind_in(model, softmax=softmax) or AnswerKind.LOGITS
    expected = kind.probabilities(np.float32([[0.7, 0.2, 0.1]]))[0]
    assert np.allclose(np.array(done.stdout.split(), float), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        '{"a": 1,}',
        '{"a": 1, "a": 2}',
        '{"a" 1}',
        "{} {}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e999",
        "NaN",
        "nul",
        '"\n"',
        r'"\x41"',
        r'"\ud800"',
        r'"\u12"',
        '"open',
        "[" * 100_000,
        "{}\0",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_cpp_refuses_what_is_not_json(tool: Path, tmp_path: Path, text: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "manifest.json").write_text(text)
    done = run(tool, bundle, Image.new("RGB", (9, 9)), tmp_path)
    assert done.returncode == 1
    assert "not JSON" in done.stderr or "is empty" in done.stderr


def test_cpp_refuses_images_it_cannot_prepare(tool: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    done = run(tool, bundle, Image.new("RGB", (1, 2000)), tmp_path)
    assert done.returncode == 1
    assert "too long and thin" in done.stderr
    (tmp_path / "short.ppm").write_bytes(b"P6\n4 4\n255\nabc")
    done = subprocess.run(
        [tool, bundle, tmp_path / "short.ppm", tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cut short" in done.stderr


def script(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(path), *(str(word) for word in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_camera_reads_the_digit_in_an_image(digits_bundle: Path, digits_folder: Path, file: str) -> None:
    for digit in ("3", "7"):
        image = sorted((digits_folder / "val" / digit).iterdir())[0]
        done = script(CAMERA, digits_bundle / file, "--runtime", "onnxruntime", "--image", image)
        assert done.returncode == 0, done.stderr
        assert f" {digit} " in done.stdout.splitlines()[1], done.stdout
        assert len(done.stdout.splitlines()) == 6, "a heading and five classes"


def camera_without(modules: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run camera.py where the named modules cannot be imported."""
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(CAMERA.parent)!r})\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        f"runpy.run_path({str(CAMERA)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *(str(word) for word in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_camera_needs_no_torch_and_no_opencv_for_an_image(digits_bundle: Path, digits_folder: Path) -> None:
    image = sorted((digits_folder / "val" / "3").iterdir())[0]
    absent = ("torch", "onnx", "cv2", "tensorrt")
    done = camera_without(absent, digits_bundle / "model.onnx", "--runtime", "onnxruntime", "--image", image)
    assert done.returncode == 0, done.stderr
    assert " 3 " in done.stdout.splitlines()[1]


def test_camera_says_what_is_missing(digits_bundle: Path, tmp_path: Path) -> None:
    model = digits_bundle / "model.onnx"
    for arguments, message in (
        ((model, "--image", tmp_path / "none.png"), "no such file"),
        ((model, "--source", tmp_path / "none.avi"), "none.avi" if importlib.util.find_spec("cv2") else "needs OpenCV"),
        ((tmp_path / "model.onnx", "--image", "x.png"), "is not a bundle"),
        ((digits_bundle / "none.onnx", "--image", "x.png"), "none.onnx"),
    ):
        done = script(CAMERA, *arguments, "--runtime", "onnxruntime")
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_camera_without_opencv_says_what_to_install(digits_bundle: Path) -> None:
    done = camera_without(("cv2",), digits_bundle / "model.onnx", "--runtime", "onnxruntime", "--source", "0")
    assert done.returncode == 2
    assert "python3-opencv" in done.stderr
    assert "Traceback" not in done.stderr


def test_camera_shows_a_video_frame_by_frame(digits_bundle: Path, digits_folder: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: no video to read")
    digit = cv2.imread(str(sorted((digits_folder / "val" / "7").iterdir())[0]))
    video = tmp_path / "seven.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (digit.shape[1], digit.shape[0]))
    for _ in range(4):
        writer.write(digit)
    writer.release()
    model = digits_bundle / "model.onnx"
    done = script(CAMERA, model, "--runtime", "onnxruntime", "--source", video, "--frames", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" fps") == 3
    assert " 7 " in done.stdout.splitlines()[1]


@pytest.mark.parametrize(("file", "tolerance"), [("model.onnx", "1e-4"), ("model.int8.onnx", "0.2")])
def test_check_golden_compares_with_pytorch(digits_bundle: Path, file: str, tolerance: str) -> None:
    arguments = (digits_bundle / file, "--runtime", "onnxruntime", "--tolerance", tolerance)
    done = script(CHECK_GOLDEN, *arguments)
    assert done.returncode == 0, done.stderr
    assert "16 of 16" in done.stdout


@pytest.fixture(scope="module")
def answers_of_its_own(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of one small network: as it is, with the options that change what goes in and comes out, and features."""
    network = small_network()
    finishes = {
        "plain": Finish(),
        "uint8": Finish(uint8_input=True),
        "softmax": Finish(softmax=True),
        "topk": Finish(topk=3),
        "all": Finish(uint8_input=True, softmax=True, topk=3),
    }
    folder = tmp_path_factory.mktemp("answers")
    made = {}
    for name, finish in finishes.items():
        made[name] = small_bundle(folder / name, {"fp32": network}, finish=finish, answers=AnswerKind.LOGITS)
        manifest = load_manifest(made[name])
        pictures = [read_image(path) for path in sorted(digits_folder.glob("val/*/*"))[:6]]
        inputs = np.stack([manifest.prepare(picture) for picture in pictures])
        plain = np.stack([preprocess(manifest.preprocessing, picture) for picture in pictures])
        with OrtRuntime(network) as runtime:
            logits = runtime.run({"input": plain})["logits"]
        np.savez(made[name] / "golden.npz", input=inputs, logits=logits)
    return made


@pytest.mark.parametrize("name", ["uint8", "softmax", "topk", "all"])
def test_camera_reads_what_the_files_give(answers_of_its_own: dict[str, Path], digits_folder: Path, name: str) -> None:
    """Of the best K scores place 0 was called class 0, probabilities got a second softmax, pixels were refused."""
    image = sorted(digits_folder.glob("val/*/*"))[40]
    words = ("--runtime", "onnxruntime", "--image", image, "--top", 3)
    models = (answers_of_its_own[which] / "model.onnx" for which in ("plain", name))
    plain, done = (script(CAMERA, model, *words).stdout.splitlines()[1:] for model in models)
    assert len(plain) == 3
    if name == "topk":  # of the best logits no probability is known
        assert [line.split()[:2] for line in done] == [[line.split()[0], "logit"] for line in plain]
    else:
        assert done == plain


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("uint8", 0, "6 of 6"),
        ("softmax", 0, "6 of 6"),
        ("topk", 2, "the files give scores, indices, which stored logits do not compare with"),
        ("all", 2, "resnet-export verify"),
    ],
)
def test_check_golden_compares_what_the_files_give(
    answers_of_its_own: dict[str, Path], name: str, code: int, told: str
) -> None:
    model = answers_of_its_own[name] / "model.onnx"
    done = script(CHECK_GOLDEN, model, "--runtime", "onnxruntime", "--tolerance", "1e-4")
    assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_golden_fails_where_the_logits_differ(digits_bundle: Path) -> None:
    done = script(CHECK_GOLDEN, digits_bundle / "model.int8.onnx", "--runtime", "onnxruntime", "--tolerance", "1e-6")
    assert done.returncode == 1
    assert "larger than" in done.stderr
