#!/usr/bin/env bash
# Versions: onnx-ir 1.1.0, onnxscript 0.7.2 (its optimizer beside it), onnxruntime 1.32.0 (CPU), onnx 1.23.2, NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: onnx_ir's IdentityEliminationPass takes away Identity nodes and keeps the outputs with their names, as it does where an
#        Identity alone makes an output, and where one stands between an input and an output, which it leaves.
# Seen:  where an Identity stands between two outputs (what torch.onnx.export writes of a network that gives back one tensor
#        twice, as logits and as features) both outputs get the last name. The file holds "features" twice and no
#        "logits"; ONNX Runtime loads it and, asked for all, gives two answers, of which a dictionary by name keeps one; asked for
#        "logits" it fails. The optimizer of onnxscript leaves such a file right.
# Output seen: "outputs of {'one output': ['logits'], 'an input': ['logits'], 'made twice': ['logits', 'features']}; {'between two': (['features', 'features'], 'fails'), 'two of one': (['features', 'features'], 'fails')}; by onnxscript's optimizer {'between two': (['logits', 'features'], 'answers'), 'two of one': (['logits', 'features'], 'answers')}"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx_ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 onnx==1.23.2 \
    numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript import optimizer

onnxruntime.set_default_logger_severity(4)
x = np.ones((1, 4), np.float32)


def network(*nodes: tuple[str, str, str], outputs: tuple[str, ...]) -> onnx.ModelProto:
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", *outputs)}
    listed = [helper.make_node(kind, [given], [wanted]) for kind, given, wanted in nodes]
    graph = helper.make_graph(listed, "g", [ends["x"]], [ends[name] for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def eliminated(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx_ir.to_proto(IdentityEliminationPass()(onnx_ir.from_proto(model)).model)


def names(model: onnx.ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]


def answers(model: onnx.ModelProto, name: str) -> str:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert len(session.run(None, {"x": x})) == len(names(model))
    try:
        session.run([name], {"x": x})
    except Exception as error:
        return "fails" if "Invalid output name" in str(error) else repr(error)
    return "answers"


kept = {
    "one output": network(("Relu", "x", "a"), ("Identity", "a", "logits"), outputs=("logits",)),
    "an input": network(("Identity", "x", "logits"), outputs=("logits",)),
    "made twice": network(("Relu", "x", "logits"), ("Relu", "x", "features"), outputs=("logits", "features")),
}
lost = {
    "between two": network(("Relu", "x", "logits"), ("Identity", "logits", "features"), outputs=("logits", "features")),
    "two of one": network(
        ("Relu", "x", "a"), ("Identity", "a", "logits"), ("Identity", "a", "features"), outputs=("logits", "features")
    ),
}
held = {name: names(eliminated(model)) for name, model in kept.items()}
found = {name: (names(eliminated(model)), answers(eliminated(model), "logits")) for name, model in lost.items()}
smaller = {name: optimizer.optimize(model) for name, model in lost.items()}
optimized = {name: (names(model), answers(model, "logits")) for name, model in smaller.items()}
print(f"outputs of {held}; {found}; by onnxscript's optimizer {optimized}")
assert held == {name: names(model) for name, model in kept.items()}, "the behaviour changed"
assert set(map(str, found.values())) == {str((["features", "features"], "fails"))}, "the behaviour changed"
assert set(map(str, optimized.values())) == {str((["logits", "features"], "answers"))}, "the behaviour changed"
PYTHON
