#!/usr/bin/env bash
# Versions: onnx 1.23.2, NumPy 2.4.6; Python 3.11.
# Guess: onnx.utils.extract_model from a model's own inputs to its own outputs gives that model back, as the version
#        converter does: class names, normalization and license in metadata_props, the doc string, the producer.
# Seen:  nodes, weights and opset are kept, what the model says of itself is not: metadata_props, doc string, model
#        version and domain are gone, and the producer is "onnx.utils.extract_model". Nothing warns. (Cutting the
#        preprocessing off a file is what one uses it for, and then who reads the labels from the file finds none.)
# Output seen: "metadata {'labels': 'cat,dog'} -> {}, doc 'what it is' -> '', version 3 -> 0, domain 'org.shop' -> ''; converter keeps {'labels': 'cat,dog'}"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import onnx
import onnx.utils
import onnx.version_converter
from onnx import TensorProto, helper

whole, part = f"{sys.argv[1]}/whole.onnx", f"{sys.argv[1]}/part.onnx"
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", ends[:1], ends[1:])
about = {"doc_string": "what it is", "model_version": 3, "domain": "org.shop", "producer_name": "shop"}
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **about)
helper.set_model_props(model, {"labels": "cat,dog"})
onnx.save(model, whole)
onnx.utils.extract_model(whole, part, ["x"], ["y"])


def metadata(of: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in of.metadata_props}


got, converted = onnx.load(part), onnx.version_converter.convert_version(model, 17)
told = [f"metadata {metadata(model)} -> {metadata(got)}", f"doc {model.doc_string!r} -> {got.doc_string!r}"]
told += [f"version {model.model_version} -> {got.model_version}", f"domain {model.domain!r} -> {got.domain!r}"]
print(", ".join(told) + f"; converter keeps {metadata(converted)}")
print(f"producer {model.producer_name!r} -> {got.producer_name!r}")
assert metadata(converted) == metadata(model) == {"labels": "cat,dog"} and got.graph.node == model.graph.node
assert (metadata(got), got.doc_string, got.model_version, got.domain) == ({}, "", 0, "")
PYTHON
