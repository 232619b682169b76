"""The kinds of file that come from outside: what a good one is, what a hostile one is, and who reads it.

Each reader does what the product does with such a file, and raises one of our errors or returns. Imported by the child
process of `hostile_files.py` only, and by the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mutate import mutate_bytes, mutate_json, mutate_protobuf, mutate_zip
from PIL import Image

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"
CANARY = "code-ran"
"""A file in the working folder that appears only when something of a hostile file was executed."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    `hostile(number)` writes file `number` into the folder that `prepare` filled: first the hand-made ones, then the
    mutated. `read()` reads it as the product does.
    """

    name: str
    file: str
    good: bytes
    hand_made: tuple[bytes | Callable[[], bytes], ...]  # a function where making it takes seconds
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], None]
    wrap: Callable[[Path, bytes], None] = lambda path, content: path.write_bytes(content) and None


def hostile(kind: Kind, folder: Path, number: int, seed: int) -> Path:
    """Write hostile file `number` and return its path."""
    path = folder / kind.file
    if number < len(kind.hand_made):
        made = kind.hand_made[number]
        content = made() if callable(made) else made
    else:
        content = kind.mutate(kind.good, random.Random(f"{seed} {kind.name} {number}"))
    kind.wrap(path, content)
    return path


# JSON


def manifest_kind(bundle: Path, folder: Path) -> Kind:
    """A manifest over unchanged files: read, checked, asked for everything that reads it without torch."""
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    content = json.loads((bundle / "manifest.json").read_text())
    picture = Image.new("RGB", (40, 30), (10, 200, 30))

    def read(path: Path) -> None:
        from exporter.engines.bundle_engine import _onnx_file
        from resnet_export.build_job.command import lowest_precision
        from resnet_export.commands.sensitivity import _recipe
        from runtimes.bundle.manifest import check_files, load_manifest

        manifest = load_manifest(path.parent)
        manifest.prepare(picture)
        json.dumps(manifest.to_json(), allow_nan=True)
        check_files(path.parent, manifest)
        _onnx_file(manifest, path.parent, lowest_precision(path.parent, manifest))
        _recipe(path.parent)

    def with_file(name: str) -> bytes:
        return json.dumps({**content, "files": {**content["files"], name: content["files"]["labels.txt"]}}).encode()

    names = ("../labels.txt", "/etc/passwd", "a/../../b", "..", ".", "", "a\\..\\b", "x" * 300, "a\0b", "labels.txt/")
    huge = json.dumps({**content, "opset": 10**400}).encode()
    deep = b'{"schema_version": 1, "model": ' + b"[" * 100_000
    hand_made = (*map(with_file, names), huge, deep, b"", b"\xef\xbb\xbf{}", b"null", b"9" * 5000)
    return Kind("manifest", "manifest.json", b"", hand_made, lambda _, generator: mutate_json(content, generator), read)


def sidecar_kind(bundle: Path, folder: Path) -> Kind:
    """The sidecar of an engine: read, compared, asked for the command that rebuilds."""
    from exporter.engines.bundle_engine import _why_rebuild
    from runtimes.bundle.manifest import BatchRange, file_entry
    from runtimes.trt.compatibility import check_plan, read_sidecar, rebuild_command
    from runtimes.trt.engine_sidecar import EngineFacts, EngineSidecar

    (folder / "x.engine").write_bytes(b"a plan")
    entry = file_entry(folder / "x.engine")
    facts = EngineFacts(
        entry.sha256, "int8", "rtx", "1.7", None, None, "13.0", "Linux x86_64", None, BatchRange(1, 8, 32), {"a": 1}
    )
    tool = {"name": "resnet-export", "version": "0"}
    good = EngineSidecar(facts, entry.sha256, entry.size_bytes, "model.onnx", ("warned",), tool, 1.5).to_json()

    def read(path: Path) -> None:
        engine = path.parent / "x.engine"
        sidecar = read_sidecar(engine, required=True, flavor=None)
        assert sidecar is not None
        command = rebuild_command(engine, sidecar, sidecar.facts.flavor)
        facts.differences(sidecar.facts)
        _why_rebuild(engine, facts)
        json.dumps(sidecar.to_json())
        check_plan(engine, sidecar, sidecar.facts.flavor, command)

    hand_made = (b"", b"[]", b'"' + b"x" * 100_000 + b'"', b"[" * 100_000)
    mutate = lambda _, generator: mutate_json(good, generator)  # noqa: E731
    return Kind("engine sidecar", "x.engine.json", b"", hand_made, mutate, read)


def calibration_kind(bundle: Path, folder: Path) -> Kind:
    """A calibration table: read, judged, and put into the model it belongs to."""
    import onnx

    content = json.loads((bundle / "calibration.json").read_text())
    model = onnx.load(bundle / "model.onnx")

    def read(path: Path) -> None:
        from calibration import insert_qdq
        from calibration.diagnostics.quantizability import lint_activations
        from calibration.errors import CalibrationError
        from calibration.observers.convergence import still_moving, summary
        from calibration.observers.judge_input import judge_input
        from calibration.ranges.calibration_table import CalibrationTable
        from runtimes.bundle.manifest import load_manifest
        from runtimes.io.bounded_read import read_json_file

        try:
            table = CalibrationTable.from_json(read_json_file(path))
        except (OSError, ValueError) as err:
            raise CalibrationError(str(err)) from err
        json.dumps(table.to_json(), allow_nan=False)
        if table.observed is not None:
            judge_input(table.observed.input, load_manifest(bundle).preprocessing)
            still_moving(table.observed.convergence)
            summary(table.observed.convergence)
        lint_activations(model, table)
        insert_qdq(model, table)

    mutate = lambda _, generator: mutate_json(content, generator)  # noqa: E731
    return Kind("calibration.json", "calibration.json", b"", (b"", b"{}", b"[" * 100_000), mutate, read)


def cache_kind(bundle: Path, folder: Path) -> Kind:
    """An entry of the calibration cache under the right name; half of them with a checksum that is right again."""
    from calibration.ranges.calibration_cache import CacheKey, CalibrationCache, Hit, Miss, _canonical, _sha256
    from calibration.ranges.calibration_table import CalibrationTable

    content = json.loads((bundle / "calibration.json").read_text())
    key = CacheKey({"model": "0" * 64, "images": "1" * 64})
    cache = CalibrationCache(folder)
    path = cache.store("net", key, CalibrationTable.from_json(content))
    good = json.loads(path.read_bytes())

    def mutate(_: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.5:
            return mutate_json(good, generator)
        text = mutate_json(content, generator)
        try:
            return json.dumps(
                {**good, "table": (table := json.loads(text)), "sha256": _sha256(_canonical(table))}
            ).encode()
        except (ValueError, RecursionError):
            return text

    def read(path: Path) -> None:
        found = cache.look_up("net", key)
        assert isinstance(found, (Hit, Miss))
        cache.look_up("net", replace(key, parts={"model": "2" * 64}))
        if isinstance(found, Hit):
            cache.store("net", key, found.table)

    return Kind("calibration cache", path.name, b"", (b"", b"[" * 100_000, b"9" * 5000, b"[]"), mutate, read)


# Arrays and weights


def golden_kind(bundle: Path, folder: Path) -> Kind:
    """A bundle's golden outputs."""
    from runtimes.io.npz import load_npz

    rng = np.random.default_rng(1)
    stream = io.BytesIO()
    np.savez_compressed(stream, input=rng.normal(size=(4, 3, 8, 8)).astype(np.float32), logits=np.zeros((4, 10)))
    good = stream.getvalue()

    def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return out.getvalue()

    def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
        out = io.BytesIO()
        np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
        return out.getvalue()

    objects = io.BytesIO()
    np.savez(objects, input=np.array([RunsCode(str(folder / CANARY))], dtype=object))
    bombs = (
        objects.getvalue(),
        zipped({"input.npy": pickle.dumps(RunsCode(str(folder / CANARY)))}),
        zipped({"input.npy": header((10**6, 10**6)) + b"1234"}),
        lambda: zeros_in_zip({"input.npy": header((1 << 28,))}, "input.npy"),
        zipped({"input.npy": header((3,), "|O")}),
        zipped({"../../input.npy": header((1,)) + b"1234"}),
    )

    def mutate(content: bytes, generator: random.Random) -> bytes:
        return mutate_zip(content, generator, lambda _, data: mutate_bytes(data, generator))

    return Kind("golden.npz", "golden.npz", good, bombs, mutate, lambda path: load_npz(path) and None)


class RunsCode:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def _load_weights(path: Path) -> None:
    from exporter.models.load_model import load_model
    from exporter.models.loaded_model import ModelRequest

    load_model(ModelRequest("cifar_resnet20", str(path)))


def safetensors_kind(bundle: Path, folder: Path) -> Kind:
    """Weights as safetensors: into the network they are for. Half of the changes are in the header."""
    good = WEIGHTS.read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]

    def with_header(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + data

    def mutate(content: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.6:
            return with_header(mutate_json(header, generator))
        return mutate_bytes(content, generator)

    metadata = header.get("__metadata__", {})
    labels = json.dumps(["\ud800", "a\nb", *map(str, range(8))])
    hand_made = (
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000_000) + b"{" * 1000,
        with_header(json.dumps({**header, "__metadata__": {**metadata, "labels": labels}}).encode()),
        with_header(json.dumps({**header, "__metadata__": {**metadata, "preprocessing": "[" * 100_000}}).encode()),
        with_header(
            json.dumps({"fc.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()
        ),
    )
    return Kind("safetensors", "weights.safetensors", good, hand_made, mutate, _load_weights)


def pth_kind(bundle: Path, folder: Path) -> Kind:
    """Weights as torch.save wrote them: a pickle in a zip."""
    import torch
    from safetensors.torch import load_file

    state = load_file(WEIGHTS)
    good = _saved(state)
    canary = str(folder / CANARY)
    stretched = torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))
    bombs = (
        _saved({"state_dict": RunsCode(canary)}),
        pickle.dumps(RunsCode(canary)),
        pickle.dumps({"state_dict": RunsCode(canary)}, protocol=0),
        _saved(torch.nn.Linear(2, 2)),
        _saved({**state, "conv1.weight": stretched}),
        lambda: _zip_bomb(good),
        b"\x80\x02c__builtin__\nbytearray\nq\x00\x8a\x06\x00\x00\x00\x00\x10\x00\x85R.",
        _with_pickle(good, b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x10\x00\x85R."),
        _with_pickle(good, b"\x80\x02" + b"]" * 50_000 + b"."),
        _with_pickle(good, b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx."),
    )

    def mutate(content: bytes, generator: random.Random) -> bytes:
        return mutate_zip(content, generator, lambda _, data: mutate_bytes(data, generator))

    return Kind("pth", "weights.pth", good, bombs, mutate, _load_weights)


def old_pth_kind(bundle: Path, folder: Path) -> Kind:
    """As before PyTorch 1.6, not zipped, with arguments beside the weights: torch.load refuses it, ours reads it."""
    import torch
    from safetensors.torch import load_file

    state = load_file(WEIGHTS)
    arguments = argparse.Namespace(lr=0.1, where=Path("runs"))
    good = _saved({"model": state, "args": arguments}, zipped=False)
    canary = str(folder / CANARY)
    stretched = torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))
    bombs = (
        _saved({"model": state, "args": argparse.Namespace(hook=RunsCode(canary))}, zipped=False),
        _saved({"model": torch.nn.Linear(2, 2), "args": arguments}, zipped=False),
        _saved({"model": {**state, "conv1.weight": stretched}, "args": arguments}, zipped=False),
        _saved({"model": state, "args": arguments, "b": bytearray(8)}, zipped=False),
        good + _saved(state),
    )
    pickled = len(good) - sum(tensor.nbytes for tensor in state.values())

    def mutate(content: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.3:
            return mutate_bytes(content, generator)
        return mutate_bytes(content[:pickled], generator) + content[pickled:]

    return Kind("old pth", "weights.pth", good, bombs, mutate, _load_weights)


def _saved(payload: object, *, zipped: bool = True) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(payload, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            yield member.filename, archive.read(member)


def _with_pickle(content: bytes, program: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in _members(content):
            archive.writestr(name, program if name.endswith("data.pkl") else data)
    return out.getvalue()


def _zip_bomb(content: bytes) -> bytes:
    members = dict(_members(content))
    return zeros_in_zip(members, next(name for name in members if name.endswith("/0")))


def zeros_in_zip(members: dict[str, bytes], grown: str) -> bytes:
    """Return an archive of a few megabytes in which one member has a gigabyte of zeros after its own bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
                for _ in range(64 if name == grown else 0):
                    file.write(bytes(16 << 20))
    return out.getvalue()


# ONNX


def onnx_kind(bundle: Path, folder: Path) -> Kind:
    """An .onnx file as MODEL: read, tidied, opened and run."""
    from onnx import TensorProto, helper

    good = small_network().SerializeToString()
    image = np.zeros((1, 3, 16, 16), np.float32)

    def read(path: Path) -> None:
        from exporter.models.load_model import load_model
        from exporter.models.loaded_model import ModelRequest
        from exporter.tracing.export import ExportConfig, export_loaded
        from runtimes.ort.adapter import OrtRuntime

        exported = export_loaded(load_model(ModelRequest(str(path))), ExportConfig())
        with OrtRuntime(exported.onnx, num_threads=1) as runtime:
            runtime.run({"input": image})

    def bomb(op: str, *constants: tuple[str, list[int]], **attributes: Any) -> bytes:
        model = small_network()
        for name, values in constants:
            model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        inputs = [name for name, _ in constants]
        model.graph.node.append(helper.make_node(op, inputs, ["big"], **attributes))
        model.graph.node.append(helper.make_node("ReduceMax", ["big"], ["one"], keepdims=0))
        model.graph.node.append(helper.make_node("Add", ["logits", "one"], ["scores"]))
        model.graph.output[0].name = "scores"
        return model.SerializeToString()

    outside = small_network()
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../../../../etc/passwd", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    absolute = small_network()
    absolute.CopyFrom(outside)
    absolute.graph.initializer[0].external_data[0].value = "/etc/passwd"
    hand_made = (
        bomb("ConstantOfShape", ("shape", [1 << 20, 1 << 20])),
        bomb("ConstantOfShape", ("shape", [1 << 33])),
        bomb("Expand", ("value", [1]), ("shape", [1 << 20, 1 << 14])),
        bomb("Tile", ("value", [1]), ("repeats", [1 << 34])),
        outside.SerializeToString(),
        absolute.SerializeToString(),
        b"",
        b"\x08\x09",
    )
    return Kind("ONNX", "model.onnx", good, hand_made, mutate_protobuf, read)


def onnxruntime_kind(bundle: Path, folder: Path) -> Kind:
    """The same files, opened as they are, as an app would: ONNX Runtime is the first to see them."""
    image = np.zeros((1, 3, 16, 16), np.float32)

    def read(path: Path) -> None:
        from runtimes.ort.adapter import OrtRuntime

        with OrtRuntime(path, num_threads=1) as runtime:
            runtime.run(dict.fromkeys(runtime.input_specs, image))

    return replace(onnx_kind(bundle, folder), name="ONNX in ONNX Runtime", read=read)


def gates_kind(bundle: Path, folder: Path) -> Kind:
    """A file of gates for verify."""
    good = b"min_agreement = 0.99\nmax_top1_drop_pp = 0.5\n[int8]\nmin_sqnr_db = 20\n"

    def read(path: Path) -> None:
        from runtimes.verification.gate_options import read_gates

        read_gates([str(path)]).gates_for("int8")

    return Kind(
        "gate TOML",
        "gates.toml",
        b"",
        (b"", b"x = " + b"[" * 100_000, b"[" * 100_000),
        lambda _, generator: mutate_bytes(good, generator),
        read,
    )


def small_network() -> Any:
    """Conv, BatchNorm, a residual Add, pools, a Reshape, constants: what exporters write, in a few kilobytes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)

    ones = [numpy_helper.from_array(np.full(4, 1 + place, np.float32), f"bn.{place}") for place in range(4)]
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], "conv1", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", *(tensor.name for tensor in ones)], ["b1"], "bn1"),
        helper.make_node("Relu", ["b1"], ["r1"], "relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["c2", "p1"], ["a2"], "add"),
        helper.make_node("Relu", ["a2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "gap"),
        helper.make_node(
            "Constant", [], ["shape"], "const", value=helper.make_tensor("s", TensorProto.INT64, [2], [0, 4])
        ),
        helper.make_node("Reshape", ["g", "shape"], ["f"], "reshape"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [weight("w1", 4, 3, 3, 3), weight("w2", 4, 4, 3, 3), weight("w3", 5, 4), weight("b3", 5), *ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


# Pictures


def _picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).convert(mode)


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def _read_picture(path: Path) -> None:
    from runtimes.preprocessing.decode import read_image
    from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, preprocess

    preprocess(Preprocessing(36, (32, 32), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD), read_image(path))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims so many pixels."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def png_kind(bundle: Path, folder: Path) -> Kind:
    """PNG pictures."""
    good = _encoded(_picture("P"), "PNG", transparency=0)
    import zlib

    text = zlib.compress(bytes(200 << 20), 1)
    bombs = (
        png_claiming(60_000, 60_000),
        png_claiming(2**31 - 1, 2**31 - 1),
        png_claiming(0, 1),
        png_claiming(9000, 9000),
        good[:33] + struct.pack(">I", len(text) + 4) + b"zTXt" + b"a\0\0" + text + good[33:],
    )
    return Kind("PNG", "x.png", good, bombs, mutate_png, _read_picture)


def mutate_png(content: bytes, generator: random.Random) -> bytes:
    """Change bytes of one chunk and write its length and checksum anew, so that decoders look at it; or any bytes."""
    import zlib

    if generator.random() < 0.3:
        return mutate_bytes(content, generator)
    chunks, place = [], 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    index = generator.randrange(len(chunks))
    name, data = chunks[index]
    if name == b"IDAT" and generator.random() < 0.5:
        data = zlib.compress(mutate_bytes(zlib.decompress(data), generator))
    else:
        data = mutate_bytes(data, generator)
    chunks[index] = (name, data)
    if generator.random() < 0.1:
        generator.shuffle(chunks)
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return content[:8] + b"".join(packed)


def jpeg_kind(bundle: Path, folder: Path) -> Kind:
    """JPEG pictures, with EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    good = _encoded(_picture(), "JPEG", quality=85, progressive=True, exif=exif)
    start = good.index(b"\xff\xc2")
    bomb = good[: start + 5] + b"\xff\xff\xff\xff" + good[start + 9 :]
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\n"
    return Kind("JPEG", "x.jpg", good, (bomb, good[:100], b"\xff\xd8", postscript), mutate_bytes, _read_picture)


KINDS: dict[str, Callable[[Path, Path], Kind]] = {
    "onnx": onnx_kind,
    "onnxruntime": onnxruntime_kind,
    "gates": gates_kind,
    "sidecar": sidecar_kind,
    "manifest": manifest_kind,
    "calibration": calibration_kind,
    "cache": cache_kind,
    "golden": golden_kind,
    "safetensors": safetensors_kind,
    "pth": pth_kind,
    "pth_old": old_pth_kind,
    "jpeg": jpeg_kind,
    "png": png_kind,
}


def sha256_of(path: Path) -> str:
    """Return the hash of a file, to say which one failed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
