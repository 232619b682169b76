"""A bundle as a Triton model repository; every config.pbtxt is parsed by Triton's own protobuf."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bundles import small_classifier, write_bundle
from triton_proto import model_config_proto, parse_model_config

from exporter.deploy.triton import write_triton_repository
from exporter.deploy.triton_config import HEADER, Serving
from exporter.errors import ExportError, OutputExistsError
from exporter.passes.pre_post_options import Finish
from resnet_export.main import main
from runtimes.bundle.manifest import BatchRange, TensorEntry, file_entry, load_manifest
from runtimes.errors import BundleError
from runtimes.preprocessing.transform import Interpolation, Preprocessing
from runtimes.trt.engine_sidecar import EngineFacts, EngineSidecar, sidecar_path

SMALL = Preprocessing((8, 8), None, Interpolation.BILINEAR, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture
def bundle(tmp_path) -> Path:
    model = small_classifier()
    return write_bundle(tmp_path / "bundle", {"fp32": model, "int8": model}, preprocessing=SMALL)


def config_of(folder: Path):
    config = parse_model_config((folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert config.name == folder.name
    return config


def add_engine(bundle: Path, precision: str = "fp32", *, batch: BatchRange, name: str | None = None) -> Path:
    onnx = bundle / {"fp32": "model.onnx", "int8": "model.int8.onnx"}[precision]
    engine = onnx.with_name(name or f"{onnx.stem}.engine")
    engine.write_bytes(b"plan of " + onnx.name.encode())
    facts = EngineFacts(
        file_entry(onnx).sha256,
        precision,
        "tensorrt",
        "10.3.0",
        "Orin",
        "8.7",
        "12.6",
        "Linux aarch64",
        "6.2",
        batch,
        {},
    )
    entry = file_entry(engine)
    sidecar = EngineSidecar(facts, entry.sha256, entry.size_bytes, onnx.name, (), {"name": "resnet-export"}, 1.0)
    sidecar_path(engine).write_text(json.dumps(sidecar.to_json()))
    return engine


class TestWhatIsWritten:
    def test_one_model_for_each_precision(self, bundle, tmp_path):
        plan = write_triton_repository(bundle, tmp_path / "models")
        assert [model.name for model, _ in plan.models] == ["cifar_resnet20_fp32", "cifar_resnet20_int8"]
        folder = tmp_path / "models" / "cifar_resnet20_int8"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
            "1/model.onnx",
            "config.pbtxt",
            "labels.txt",
        ]
        assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "model.int8.onnx").read_bytes()
        config = config_of(folder)
        assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
        assert config.default_model_filename == "model.onnx"
        assert config.version_policy.latest.num_versions == 1
        assert config.instance_group[0].count == 1

    def test_config_and_file_agree(self, bundle, tmp_path):
        """What Triton checks when it loads: names, types and, behind the batch, sizes. Asked of ONNX Runtime here."""
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], name="net")
        config = config_of(tmp_path / "models" / "net")
        types = {"tensor(float)": model_config_proto().TYPE_FP32}
        session = onnxruntime.InferenceSession(
            tmp_path / "models" / "net" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        assert config.max_batch_size == 32
        for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [(t.name, t.data_type, list(t.dims)) for t in ours] == [
                (info.name, types[info.type], info.shape[1:]) for info in theirs
            ]
        output = session.run(None, {"input": np.zeros((config.max_batch_size, *config.input[0].dims), np.float32)})[0]
        assert list(output.shape[1:]) == list(config.output[0].dims)

    def test_labels_are_those_of_the_output(self, bundle, tmp_path):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"])
        folder = tmp_path / "models" / "cifar_resnet20"
        label_file = folder / config_of(folder).output[0].label_filename
        assert label_file.read_text().splitlines() == list("0123456789")

    def test_a_client_can_ask_for_the_preprocessing(self, bundle, tmp_path):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"])
        parameters = config_of(tmp_path / "models" / "cifar_resnet20").parameters
        told = json.loads(parameters["resnet_export.preprocessing"].string_value)
        assert Preprocessing.from_json(told) == SMALL

    def test_pixels_and_the_five_best(self, tmp_path):
        bundle = write_bundle(
            tmp_path / "bundle",
            {"fp32": small_classifier()},
            preprocessing=SMALL,
            finish=Finish(uint8_input=True, softmax=True, topk=5),
        )
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"])
        config = config_of(tmp_path / "models" / "cifar_resnet20")
        proto = model_config_proto()
        (images,) = config.input
        assert (images.name, images.data_type, list(images.dims)) == ("images", proto.TYPE_UINT8, [8, 8, 3])
        assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
            ("scores", proto.TYPE_FP32, [5]),
            ("indices", proto.TYPE_INT64, [5]),
        ]
        # Place i of `scores` is not class i, so that labels by place would be wrong.
        assert not any(output.label_filename for output in config.output)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [("timm:resnet18.a1_in1k", "resnet18.a1_in1k"), ("my net/v2", "my_net_v2"), ("größe", "gr_e")],
    )
    def test_names_are_folders(self, bundle, tmp_path, given, expected):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], name=given)
        assert [path.name for path in (tmp_path / "models").iterdir()] == [expected]
        config_of(tmp_path / "models" / expected)

    def test_a_name_of_which_nothing_is_left(self, bundle, tmp_path):
        with pytest.raises(ExportError, match="expected letters, digits"):
            write_triton_repository(bundle, tmp_path / "models", name="../")


class TestBatching:
    def test_sizes_of_the_bundle(self, bundle, tmp_path):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"])
        batching = config_of(tmp_path / "models" / "cifar_resnet20").dynamic_batching
        assert list(batching.preferred_batch_size) == [8, 32]
        assert batching.max_queue_delay_microseconds == 500

    def test_as_told(self, bundle, tmp_path):
        serving = Serving(max_batch=16, preferred=(4, 16), max_queue_delay_us=0, instances=3, gpus=(0, 2))
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], serving=serving)
        config = config_of(tmp_path / "models" / "cifar_resnet20")
        assert config.max_batch_size == 16
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        (group,) = config.instance_group
        assert (group.count, list(group.gpus)) == (3, [0, 2])
        assert group.kind == model_config_proto().ModelInstanceGroup.KIND_GPU

    @pytest.mark.parametrize(("device", "kind"), [("auto", "KIND_AUTO"), ("gpu", "KIND_GPU"), ("cpu", "KIND_CPU")])
    def test_devices(self, bundle, tmp_path, device, kind):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], serving=Serving(device=device))
        (group,) = config_of(tmp_path / "models" / "cifar_resnet20").instance_group
        assert group.kind == getattr(model_config_proto().ModelInstanceGroup, kind)

    def test_a_fixed_batch_is_handed_through(self, tmp_path):
        """Triton's rule: max_batch_size 0 means that `dims` are the whole shape."""
        bundle = write_bundle(
            tmp_path / "bundle",
            {"fp32": small_classifier()},
            preprocessing=SMALL,
            inputs=(TensorEntry("input", "float32", (4, 3, 8, 8)),),
            outputs=(TensorEntry("logits", "float32", (4, 10)),),
        )
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"])
        config = config_of(tmp_path / "models" / "cifar_resnet20")
        assert config.max_batch_size == 0
        assert list(config.input[0].dims) == [4, 3, 8, 8]
        assert list(config.output[0].dims) == [4, 10]
        assert not config.HasField("dynamic_batching")
        for serving, reason in ((Serving(max_batch=8), "Triton cannot batch"), (Serving(preferred=(2,)), "no batches")):
            with pytest.raises(ExportError, match=reason):
                write_triton_repository(bundle, tmp_path / "other", serving=serving)
        assert not (tmp_path / "other").exists()

    def test_no_batcher_for_single_images(self, bundle, tmp_path):
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], serving=Serving(max_batch=1))
        config = config_of(tmp_path / "models" / "cifar_resnet20")
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (1, False)

    def test_a_preferred_size_beyond_the_largest(self, bundle, tmp_path):
        with pytest.raises(ExportError, match="--preferred 64: larger than the largest batch, 32"):
            write_triton_repository(bundle, tmp_path / "models", serving=Serving(preferred=(8, 64)))

    def test_no_file_at_all(self, bundle, tmp_path):
        with pytest.raises(ValueError, match="precisions: got none"):
            write_triton_repository(bundle, tmp_path / "models", precisions=[])

    @pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"device": "cpu", "gpus": (0,)}, {"max_queue_delay_us": -1}])
    def test_options_that_triton_refuses(self, wrong):
        with pytest.raises(ValueError, match=r"expected|leave out"):
            Serving(**wrong)


class TestEngines:
    def test_an_engine_is_a_model_of_its_own(self, bundle, tmp_path):
        add_engine(bundle, "int8", batch=BatchRange(1, 4, 16))
        plan = write_triton_repository(bundle, tmp_path / "models", precisions=["int8"], name="net")
        assert [model.name for model, _ in plan.models] == ["net", "net_trt"]
        folder = tmp_path / "models" / "net_trt"
        assert (folder / "1" / "model.plan").read_bytes() == b"plan of model.int8.onnx"
        config = config_of(folder)
        assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
        assert config.max_batch_size == 16
        assert config.instance_group[0].kind == model_config_proto().ModelInstanceGroup.KIND_GPU

    def test_an_engine_for_large_batches_only(self, bundle, tmp_path):
        add_engine(bundle, batch=BatchRange(8, 8, 8))
        write_triton_repository(bundle, tmp_path / "models", precisions=["fp32"], name="net")
        config = config_of(tmp_path / "models" / "net_trt")
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3, 8, 8])

    def test_more_than_the_engine_takes(self, bundle, tmp_path):
        add_engine(bundle, batch=BatchRange(1, 4, 16))
        with pytest.raises(ExportError, match=r"takes at most 16; build it for larger batches .*MIN,OPT,32"):
            write_triton_repository(bundle, tmp_path / "models", serving=Serving(max_batch=32))
        assert not (tmp_path / "models").exists()

    def test_no_engine_on_a_cpu(self, bundle, tmp_path):
        add_engine(bundle, batch=BatchRange(1, 4, 16))
        with pytest.raises(ExportError, match="does not run on a CPU"):
            write_triton_repository(bundle, tmp_path / "models", serving=Serving(device="cpu"))

    def test_a_changed_engine(self, bundle, tmp_path):
        add_engine(bundle, batch=BatchRange(1, 4, 16)).write_bytes(b"another")
        with pytest.raises(BundleError, match="changed since it was built"):
            write_triton_repository(bundle, tmp_path / "models")

    def test_an_engine_of_another_export(self, bundle, tmp_path):
        engine = add_engine(bundle, batch=BatchRange(1, 4, 16))
        sidecar = sidecar_path(engine)
        content = json.loads(sidecar.read_text())
        content["facts"]["onnx_sha256"] = hashlib.sha256(b"older").hexdigest()
        sidecar.write_text(json.dumps(content))
        with pytest.raises(BundleError, match=r"built from another model\.onnx"):
            write_triton_repository(bundle, tmp_path / "models")

    def test_tensorrt_rtx_is_left_out_with_a_word(self, bundle, tmp_path):
        add_engine(bundle, batch=BatchRange(1, 4, 16), name="model.rtx.engine")
        plan = write_triton_repository(bundle, tmp_path / "models")
        assert "Triton's tensorrt backend does not load" in plan.skipped[0]
        assert len(plan.models) == 2


class TestWriting:
    def test_other_models_are_left_alone(self, bundle, tmp_path):
        other = tmp_path / "models" / "other"
        other.mkdir(parents=True)
        (other / "config.pbtxt").write_text('name: "other"')
        write_triton_repository(bundle, tmp_path / "models")
        assert (other / "config.pbtxt").read_text() == 'name: "other"'

    def test_force_replaces_our_own_only(self, bundle, tmp_path):
        models = tmp_path / "models"
        write_triton_repository(bundle, models, precisions=["fp32"], name="net")
        with pytest.raises(OutputExistsError, match="--force replaces it"):
            write_triton_repository(bundle, models, precisions=["fp32"], name="net")
        (models / "net" / "1" / "stale").write_text("")
        write_triton_repository(bundle, models, precisions=["fp32"], name="net", force=True)
        assert not (models / "net" / "1" / "stale").exists()
        config = models / "net" / "config.pbtxt"
        assert config.read_text().startswith(HEADER)
        config.write_text(config.read_text().replace(HEADER, "# by hand"))
        with pytest.raises(OutputExistsError, match="is not a Triton model of this tool"):
            write_triton_repository(bundle, models, precisions=["fp32"], name="net", force=True)
        assert config.read_text().startswith("# by hand")

    def test_nothing_is_left_of_a_failed_run(self, bundle, tmp_path, monkeypatch):
        """The second model fails; the first, whole already, is not put in place either."""
        copy = __import__("shutil").copyfile

        def fail_on_int8(source, target):
            if "int8" in str(source):
                raise OSError(28, "No space left on device")
            return copy(source, target)

        monkeypatch.setattr("exporter.deploy.triton.shutil.copyfile", fail_on_int8)
        with pytest.raises(ExportError, match="No space left"):
            write_triton_repository(bundle, tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_a_changed_bundle(self, bundle, tmp_path):
        (bundle / "model.onnx").write_bytes(b"changed")
        with pytest.raises(BundleError, match="changed since it was written"):
            write_triton_repository(bundle, tmp_path / "models")

    def test_a_precision_that_is_not_there(self, bundle, tmp_path):
        with pytest.raises(BundleError, match="holds no fp16 model, it has fp32, int8"):
            write_triton_repository(bundle, tmp_path / "models", precisions=["fp16"])


class TestCommand:
    def test_writes_and_tells(self, bundle, tmp_path, capsys):
        words = ["triton", str(bundle), "-o", str(tmp_path / "models"), "--precision", "int8", "--json"]
        assert main(words) == 0
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        assert report["models"] == [{"name": "cifar_resnet20", "backend": "onnxruntime", "file": "model.int8.onnx"}]
        assert "computes Q/DQ files in float" in captured.err.replace("\n", " ")
        config_of(tmp_path / "models" / "cifar_resnet20")

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["--precision", "int4"], "expected some of fp32, fp16, int8"),
            (["--max-batch", "0"], "expected a whole number >= 1"),
            (["--gpus", "a"], "expected GPU indices"),
            (["--gpus", "0", "--device", "cpu"], "runs on none"),
            (["--max-queue-delay", "-1"], "expected"),
        ],
    )
    def test_wrong_words(self, bundle, tmp_path, capsys, words, reason):
        assert main(["triton", str(bundle), "-o", str(tmp_path / "models"), *words]) == 2
        assert reason in capsys.readouterr().err

    def test_no_bundle(self, tmp_path, capsys):
        assert main(["triton", str(tmp_path), "-o", str(tmp_path / "models")]) == 2
        assert "is not a bundle" in capsys.readouterr().err


def test_neither_torch_nor_onnx_nor_protobuf_is_needed(bundle, tmp_path):
    import subprocess
    import sys

    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in ("torch", "onnx", "google.protobuf", "onnxruntime"))
    script = f"import sys; {blocked}\nfrom resnet_export.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["triton", str(bundle), "-o", str(tmp_path / "models"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_manifest(bundle).model["id"] == "cifar_resnet20"
    assert len(list((tmp_path / "models").iterdir())) == 2
