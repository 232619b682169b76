"""manifest.json: round trip, and every way in which it can be damaged or hostile."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import (
    SCHEMA_VERSION,
    BatchRange,
    FileEntry,
    Manifest,
    TensorEntry,
    check_files,
    class_names,
    file_entry,
    load_manifest,
)
from runtimes.errors import BundleError
from runtimes.preprocessing.transform import Interpolation, Preprocessing

CONTENTS = {"model.onnx": b"float32 model", "labels.txt": b"cat\ndog\n", "empty": b""}


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        model={"id": "resnet50", "num_classes": 2, "weights": "ö"},
        preprocessing=Preprocessing(256, (224, 224), Interpolation.BILINEAR, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
        inputs=(TensorEntry("input", "float32", ("batch", 3, 224, 224)),),
        outputs=(TensorEntry("logits", "float32", ("batch", 2)),),
        batch=BatchRange(1, 8, 32),
        target="tensorrt",
        opset=20,
        ir_version=9,
        tool={"name": "resnet-export", "version": "0"},
        libraries={"onnx": "1"},
        options={"int8": True, "val": None},
        folding={"folded": [["bn1", "conv1"]], "kept": []},
        quantization={"method": {"name": "mse"}, "num_images": 512},
        parity={"rows": []},
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENTS.items()},
    )


@pytest.fixture
def bundle(tmp_path, manifest):
    for name, data in CONTENTS.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest.to_json(), ensure_ascii=False), encoding="utf-8")
    return tmp_path


def content_of(manifest: Manifest) -> dict:
    return json.loads(json.dumps(manifest.to_json()))


def set_at(content: dict, path: str, value) -> None:
    *parents, last = path.split("/")
    for name in parents:
        content = content[int(name)] if isinstance(content, list) else content[name]
    content[last] = value


class TestRoundTrip:
    def test_through_a_file(self, bundle, manifest):
        assert load_manifest(bundle) == manifest

    def test_without_quantization(self, manifest):
        float_only = replace(manifest, quantization=None)
        assert Manifest.from_json(content_of(float_only)) == float_only

    def test_is_plain_json_with_the_schema_first(self, manifest):
        content = manifest.to_json()
        assert next(iter(content.items())) == ("schema_version", SCHEMA_VERSION)
        json.dumps(content, allow_nan=False)
        assert content["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 224, 224]}]
        assert content["batch"] == {"min": 1, "opt": 8, "max": 32}
        assert content["files"]["empty"] == {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}

    def test_unknown_keys_are_left_for_later_versions(self, manifest):
        assert Manifest.from_json({**content_of(manifest), "signature": "later"}) == manifest


class TestContent:
    @pytest.mark.parametrize("key", ["schema_version", *Manifest.__slots__])
    def test_every_key_is_needed(self, manifest, key):
        content = content_of(manifest)
        del content[key]
        with pytest.raises(BundleError, match="schema None" if key == "schema_version" else f"'{key}'"):
            Manifest.from_json(content)

    @pytest.mark.parametrize(
        "path", ["files/model.onnx/sha256", "files/empty/size_bytes", "inputs/0/shape", "outputs/0/name", "batch/opt"]
    )
    def test_every_inner_key_is_needed(self, manifest, path):
        content = content_of(manifest)
        *parents, last = path.split("/")
        inner = content
        for name in parents:
            inner = inner[int(name)] if isinstance(inner, list) else inner[name]
        del inner[last]
        with pytest.raises(BundleError, match=last):
            Manifest.from_json(content)

    @pytest.mark.parametrize("schema", [2, 999, 0, "1", None])
    def test_another_schema_says_got_and_expected(self, manifest, schema):
        with pytest.raises(BundleError, match=f"got schema {schema!r}, this version reads 1"):
            Manifest.from_json({**content_of(manifest), "schema_version": schema})

    def test_a_newer_schema_is_told_even_if_its_keys_are_others(self):
        with pytest.raises(BundleError, match="got schema 2"):
            Manifest.from_json({"schema_version": 2, "everything": "else"})

    @pytest.mark.parametrize("content", [[], None, "x", 1, True])
    def test_no_object(self, content):
        with pytest.raises(BundleError, match="expected an object"):
            Manifest.from_json(content)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("model", ["resnet50"]),
            ("model", None),
            ("target", 7),
            ("opset", "20"),
            ("opset", True),
            ("ir_version", 9.5),
            ("tool", "x"),
            ("libraries", []),
            ("options", None),
            ("folding", 1),
            ("parity", []),
            ("quantization", "mse"),
            ("preprocessing", {}),
            ("preprocessing", None),
            ("preprocessing/mean", [0.5]),
            ("inputs", None),
            ("inputs", [1]),
            ("inputs/0/shape", None),
            ("inputs/0/extra", 1),
            ("batch", [1, 8, 32]),
            ("batch/min", "1"),
            ("batch/min", 9),
            ("batch/min", 0),
            ("files", ["model.onnx"]),
            ("files/empty", "abc"),
            ("files/empty/sha256", None),
            ("files/empty/sha256", 12),
            ("files/empty/sha256", "00"),
            ("files/empty/sha256", "g" * 64),
            ("files/empty/size_bytes", "0"),
            ("files/empty/size_bytes", -1),
            ("files/empty/size_bytes", 1.5),
            ("files/empty/mode", 0o777),
        ],
    )
    def test_wrong_kinds(self, manifest, path, value):
        content = content_of(manifest)
        set_at(content, path, value)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            Manifest.from_json(content)

    @pytest.mark.parametrize(
        "name",
        ["../x", "..", ".", "", "/abs", "/", "a/b", "a/../b", "./a", "a/", "a\\b", "..\\x", "\\\\server\\x", "//x"],
    )
    def test_file_names_that_leave_the_bundle(self, manifest, name):
        content = content_of(manifest)
        content["files"][name] = content["files"]["empty"]
        with pytest.raises(BundleError, match="leaves the bundle"):
            Manifest.from_json(content)

    @pytest.mark.parametrize("name", ["a b.onnx", "é.txt", "..a", "a..b", ".hidden", "model.fp16.onnx"])
    def test_file_names_that_are_fine(self, manifest, name):
        content = content_of(manifest)
        content["files"][name] = content["files"]["empty"]
        assert name in Manifest.from_json(content).files


class TestLoad:
    def test_no_manifest(self, tmp_path):
        with pytest.raises(BundleError, match=r"is not a bundle: manifest\.json cannot be read \(No such file"):
            load_manifest(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(BundleError, match="gone is not a bundle"):
            load_manifest(tmp_path / "gone")

    def test_the_bundle_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(BundleError, match="is a file, expected the folder of a bundle"):
            load_manifest(tmp_path / "file")

    def test_the_manifest_is_a_folder(self, tmp_path):
        (tmp_path / MANIFEST_NAME).mkdir()
        with pytest.raises(BundleError, match=r"cannot be read \(it is a folder, pipe or device\)"):
            load_manifest(tmp_path)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not json",
            b'{"schema_version": 1',
            b"\xff\xfe\x00",
            b'{"schema_version": "\xff"}',
            b"{'schema_version': 1}",
            b'{"opset": 1' + b"0" * 5000 + b"}",
        ],
    )
    def test_not_json(self, tmp_path, data):
        (tmp_path / MANIFEST_NAME).write_bytes(data)
        with pytest.raises(BundleError, match="not JSON"):
            load_manifest(tmp_path)

    @pytest.mark.parametrize("data", [b"[]", b"null", b"3", b'"text"'])
    def test_json_but_no_object(self, tmp_path, data):
        (tmp_path / MANIFEST_NAME).write_bytes(data)
        with pytest.raises(BundleError, match="expected an object"):
            load_manifest(tmp_path)

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_deep_nesting(self, tmp_path, opening):
        (tmp_path / MANIFEST_NAME).write_text(opening * 100_000)
        with pytest.raises(BundleError, match="not JSON"):
            load_manifest(tmp_path)


class TestFiles:
    def test_untouched(self, bundle):
        check_files(bundle, load_manifest(bundle))

    def test_file_entry(self, tmp_path):
        data = bytes(range(256)) * 9000  # more than two pieces of 1 MiB
        (tmp_path / "x").write_bytes(data)
        assert file_entry(tmp_path / "x") == FileEntry(hashlib.sha256(data).hexdigest(), 2_304_000)

    def test_one_bit_changed(self, bundle):
        (bundle / "model.onnx").write_bytes(b"gloat32 model")
        with pytest.raises(BundleError, match=r"model\.onnx: changed .* got 13 bytes, SHA-256 .* expected 13 bytes"):
            check_files(bundle, load_manifest(bundle))

    @pytest.mark.parametrize("data", [b"float32 mode", b"float32 model ", b""])
    def test_size_changed(self, bundle, data):
        (bundle / "model.onnx").write_bytes(data)
        with pytest.raises(BundleError, match=rf"got {len(data)} bytes.*expected 13 bytes"):
            check_files(bundle, load_manifest(bundle))

    def test_recorded_size_is_compared_too(self, bundle, manifest):
        files = dict(manifest.files)
        files["empty"] = FileEntry(files["empty"].sha256, 5)
        with pytest.raises(BundleError, match=r"got 0 bytes.*expected 5 bytes"):
            check_files(bundle, replace(manifest, files=files))

    def test_missing(self, bundle, manifest):
        (bundle / "labels.txt").unlink()
        with pytest.raises(BundleError, match=r"labels\.txt: missing or not a plain file"):
            check_files(bundle, manifest)

    def test_a_symbolic_link_even_to_the_right_content(self, bundle, manifest, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
        (bundle / "labels.txt").rename(elsewhere)
        (bundle / "labels.txt").symlink_to(elsewhere)
        with pytest.raises(BundleError, match=r"labels\.txt: a symbolic link, .* copy the bundle .* \(cp -rL\)"):
            check_files(bundle, manifest)
        check_files(shutil.copytree(bundle, bundle.with_name("copied")), manifest)  # follows links, as cp -rL does

    def test_a_folder_in_its_place(self, bundle, manifest):
        (bundle / "empty").unlink()
        (bundle / "empty").mkdir()
        with pytest.raises(BundleError, match="not a plain file"):
            check_files(bundle, manifest)

    def test_a_name_that_no_file_can_have(self, manifest, bundle):
        files = {"nul\0byte": manifest.files["empty"]}
        with pytest.raises(BundleError):
            check_files(bundle, Manifest.from_json(content_of(replace(manifest, files=files))))

    def test_a_file_that_cannot_be_read(self, bundle, manifest, monkeypatch):
        """Simulated, because root may read everything."""

        def denied(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("runtimes.bundle.manifest.file_entry", denied)
        with pytest.raises(BundleError, match=r"cannot be read \(Permission denied\)"):
            check_files(bundle, manifest)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 5, 4), (-1, -1, -1)])
def test_batch_ranges_that_are_none(sizes):
    with pytest.raises(ValueError, match="expected 1 <= MIN <= OPT <= MAX"):
        BatchRange(*sizes)


def test_batch_range_of_one_size():
    assert BatchRange(4, 4, 4).opt == 4


def test_from_json_does_not_change_its_argument(manifest):
    content = content_of(manifest)
    before = copy.deepcopy(content)
    Manifest.from_json(content)
    assert content == before


def test_prepare_gives_what_the_input_takes(manifest):
    """Normalized planes for a float32 input; for uint8 the pixels as a camera gives them."""
    from PIL import Image

    from runtimes.preprocessing.transform import normalize

    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (300, 400, 3), np.uint8))
    height, width = manifest.preprocessing.input_size
    prepared = manifest.prepare(picture)
    assert (prepared.dtype, prepared.shape) == (np.float32, (3, height, width))
    pixels_in = TensorEntry("images", "uint8", ("batch", height, width, 3))
    frame = replace(manifest, inputs=(pixels_in,)).prepare(picture)
    assert (frame.dtype, frame.shape) == (np.uint8, (height, width, 3))
    assert np.array_equal(normalize(manifest.preprocessing, frame), prepared)


# Found by mutated files: they were read, and failed later with an error of Python's


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", []),
        ("outputs", []),
        ("inputs", [{"name": 1, "dtype": "float32", "shape": []}]),
        ("inputs", [{"name": "x", "dtype": None, "shape": []}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [1.5]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [10**400]}]),
        ("inputs", {"x": 1}),
        ("batch", {"min": 1.0, "opt": 2, "max": 3}),
        ("batch", {"min": True, "opt": 2, "max": 3}),
        ("batch", {"min": 1, "opt": 2, "max": 10**400}),
        ("model", {}),
        ("model", {"id": ["x"]}),
        ("tool", {"version": 1}),
        ("libraries", {"numpy": None}),
        ("schema_version", True),
        ("schema_version", 1.0),
    ],
)
def test_values_of_a_wrong_kind_are_refused_when_read(manifest, key, value):
    with pytest.raises(BundleError):
        Manifest.from_json({**content_of(manifest), key: value})


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [10**400, 0, 0]},
        {"std": [1, 1, float("inf")]},
        {"crop": {"height": 60_000, "width": 60_000}},
        {"crop": None, "resize": {"height": 60_000, "width": 60_000}},
        {"resize": {"shorter_side": 10**400}},
        {"resize": {"inside": {"height": 10**400, "width": 1}}},
    ],
)
def test_preprocessing_that_would_fill_the_memory_or_no_float_holds(manifest, change):
    content = content_of(manifest)
    with pytest.raises(BundleError, match="cannot be read"):
        Manifest.from_json({**content, "preprocessing": {**content["preprocessing"], **change}})


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        (
            "preprocessing",
            {"crop": {"height": 40, "width": 40}},
            r"\[3, 40, 40\], but `inputs` says 'input' \[",
        ),
        ("preprocessing", {"crop": None, "resize": {"height": 8, "width": 9}}, r"\[3, 8, 9\], but `inputs`"),
        ("preprocessing", {"mean": [0.5], "std": [0.5], "color_order": "L"}, r"grey.*\[1, 224, 224\], but `inputs`"),
        ("inputs", [{"name": "input", "dtype": "float32", "shape": ["n", 3, 64, 64]}], r"'input' \['n', 3, 64, 64\]"),
        ("inputs", [{"name": "input", "dtype": "float32", "shape": ["n", 224, 224]}], r"'input' \['n', 224, 224\]"),
        (
            "inputs",
            [{"name": "input", "dtype": "uint8", "shape": ["n", 3, 224, 224]}],
            r"\[224, 224, 3\], but `inputs`",
        ),
        (
            "outputs",
            [{"name": "logits", "dtype": "float32", "shape": ["n", 3]}],
            r"is 2, but `outputs` says 'logits' \[",
        ),
        ("model", {"num_classes": 3}, r"`model\.num_classes` is 3, but `outputs` says 'logits' \['batch', 2\]"),
        ("model", {"num_classes": "two"}, r"`model\.num_classes` is 'two', but"),
        ("model", {"answers": "maybe"}, r"model 'answers': got 'maybe', expected one of logits, "),
    ],
)
def test_fields_that_contradict_each_other_are_named(manifest, key, change, said):
    content = content_of(manifest)
    changed = {**content[key], **change} if isinstance(change, dict) else change
    with pytest.raises(BundleError, match=rf"manifest\.json.*{said}.*it was changed after the export: undo that"):
        Manifest.from_json({**content, key: changed})


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("preprocessing", {"resize": {"shorter_side": 240}}),
        ("inputs", [{"name": "input", "dtype": "float32", "shape": ["batch", 3, "height", "width"]}]),
        ("inputs", [{"name": "input", "dtype": "uint8", "shape": ["batch", 224, 224, 3]}]),
        ("outputs", [{"name": "logits", "dtype": "float32", "shape": ["batch", "classes"]}]),
        ("outputs", [{"name": name, "dtype": "float32", "shape": ["batch", 5]} for name in ("scores", "indices")]),
        ("model", {"num_classes": None, "answers": "features"}),
    ],
)
def test_fields_that_agree_are_read(manifest, key, change):
    content = content_of(manifest)
    changed = {**content[key], **change} if isinstance(change, dict) else change
    assert Manifest.from_json({**content, key: changed}).files == manifest.files


def test_a_key_that_is_gone_is_named(manifest):
    content = content_of(manifest)
    del content["files"]
    with pytest.raises(BundleError, match="got no 'files', which every manifest has"):
        Manifest.from_json(content)


def test_a_newer_schema_names_the_version_to_install(manifest):
    newer = {**content_of(manifest), "schema_version": SCHEMA_VERSION + 1, "tool": {"version": "7.1"}}
    with pytest.raises(BundleError, match=r"install resnet-export 7\.1, which wrote it, or newer: pip install"):
        Manifest.from_json(newer)
    with pytest.raises(BundleError, match="install resnet-export of a newer version"):
        Manifest.from_json({**newer, "tool": 1})
    with pytest.raises(BundleError, match="export it anew"):
        Manifest.from_json({**newer, "schema_version": 0})


def test_a_manifest_that_would_block_or_never_end(tmp_path):
    os.mkfifo(tmp_path / MANIFEST_NAME)
    with pytest.raises(BundleError, match="pipe or device"):
        load_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="pipe or device"):
        load_manifest(tmp_path)


def test_a_file_whose_name_is_too_long_for_the_disk(bundle, manifest):
    files = {**manifest.files, "x" * 300: FileEntry("0" * 64, 1)}
    with pytest.raises(BundleError, match="cannot be read"):
        check_files(bundle, replace(manifest, files=files))


@pytest.mark.parametrize(
    ("labels", "named", "names"),
    [
        ("0 1 2", None, None),
        ("0 1 2", False, None),
        ("0 1 2", True, ("0", "1", "2")),
        ("0 1 3", None, ("0", "1", "3")),
        ("a b c", None, ("a", "b", "c")),
    ],
)
def test_numbers_are_names_where_somebody_gave_them(tmp_path, manifest, labels, named, names):
    """Older bundles do not say; there numbers in order are what is written where nobody named the classes."""
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels.split()))
    model = {"id": "x", **({} if named is None else {"classes_named": named})}
    assert class_names(tmp_path, replace(manifest, model=model)) == names
