#!/usr/bin/env bash
# Versions: onnxruntime-extensions 0.15.2, onnxruntime 1.32.0 (CPU), onnx 1.23.2, Pillow 12.3.0, opencv-python-headless
#        5.0.0.93, NumPy 2.4.6; Python 3.11, Linux x86-64.
# Guess: the DecodeImage that its add_ppp_to_model puts in front of a network ("bytes of a JPEG in, classes out") gives
#        Pillow's pixels, with which the network was trained: everybody's decoder is libjpeg-turbo, as OpenCV's here.
# Seen:  of a JPEG at full color resolution (4:4:4) yes, to one level. Of 4:2:0, which cameras and the web write, colors are
#        up to 45 levels off at their edges, and most pixels by one: colors are enlarged inside the inverse DCT, as IJG's
#        libjpeg has done since its version 7, instead of interpolated between neighbors. A CMYK JPEG comes out with four
#        channels where the file declares three.
# Output seen: "levels from Pillow: 4:4:4 1, 4:2:2 27, 4:2:0 45 (62 % of the pixels differ); OpenCV 4:2:0 0; CMYK (40, 60, 4)"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime-extensions==0.15.2 onnxruntime==1.32.0 \
    onnx==1.23.2 pillow==12.3.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime_extensions import get_library_path
from PIL import Image

domain = "com.microsoft.extensions"
graph = helper.make_graph(
    [helper.make_node("DecodeImage", ["bytes"], ["bgr"], domain=domain)],
    "decode",
    [helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["n"])],
    [helper.make_tensor_value_info("bgr", TensorProto.UINT8, None)],
)
opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
options = ort.SessionOptions()
options.register_custom_ops_library(get_library_path())
model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

y, x = np.mgrid[:240, :320]
waves = [128 + 90 * np.sin(x / 7) + 30 * np.cos(y / 5), 128 + 90 * np.cos(y / 9 + x / 30), 128 + 60 * np.sin((x + y) / 11)]
colors = np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8)
colors[60:180, 101:203] = (0, 0, 255)
picture = Image.fromarray(colors)


def written(image, **words):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **words)
    return stream.getvalue()


def decoded(data):
    return session.run(None, {"bytes": np.frombuffer(data, np.uint8)})[0]


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


files = {name: written(picture, subsampling=kind) for name, kind in (("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2))}
apart = {name: abs(decoded(data)[..., ::-1] - by_pillow(data)) for name, data in files.items()}
levels = {name: int(each.max()) for name, each in apart.items()}
share = round(100 * float((apart["4:2:0"].max(-1) > 0).mean()))
opencv = cv2.imdecode(np.frombuffer(files["4:2:0"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
its = int(abs(opencv - by_pillow(files["4:2:0"])).max())
cmyk = decoded(written(picture.resize((60, 40)).convert("CMYK"))).shape
told = ", ".join(f"{name} {largest}" for name, largest in levels.items())
print(f"levels from Pillow: {told} ({share} % of the pixels differ); OpenCV 4:2:0 {its}; CMYK {cmyk}")
assert levels["4:4:4"] <= 1 and levels["4:2:0"] > 8 and share > 20 and its <= 1 and cmyk[2] == 4, "the behaviour changed"
PYTHON
