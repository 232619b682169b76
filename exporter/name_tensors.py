"""Name nodes and tensors after PyTorch's modules: `layer1.0.conv1`, `layer1.0.relu_1`, `layer1.0.add`.

The exporter leaves the module path of every node in its metadata. A node made by a leaf module takes the module's
path, a node made by a container's own forward (an addition, a flatten) takes path + operator; a second node under
one name gets `_1`, as a ReLU that is called twice. A node and its first output share the name. Graph inputs,
graph outputs and weights keep theirs. The metadata itself is then dropped: it holds stack traces with the paths of
the machine that exported.
"""

from __future__ import annotations

import ast
from collections import Counter

from onnx import ModelProto, NodeProto

from exporter.graph import PassResult, copy_model

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def name_after_modules(model: ModelProto) -> PassResult:
    """Return a copy with readable names and without exporter metadata; `num_changes` counts renamed nodes."""
    result = copy_model(model)
    graph = result.graph
    fixed = {info.name for infos in (graph.input, graph.output) for info in infos}
    weights = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for node in graph.node:
        base = _base_name(node)
        name = base if base not in fixed | weights else f"{base}.{node.op_type.lower()}"
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}_{taken[name] - 1}"
        node.name = name
        for place, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = name if place == 0 else f"{name}.{place}"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    _drop_metadata(result)
    return PassResult(result, len(graph.node))


def _base_name(node: NodeProto) -> str:
    """Return the module path of a node, with the operator appended when the module is a container."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    scopes, classes = _words(metadata.get(_SCOPES)), _words(metadata.get(_CLASSES))
    if len(scopes) < 2 or len(classes) != len(scopes):
        return str(node.name or node.op_type.lower())
    path, kind = scopes[-2], classes[-2]
    leaf = kind.startswith("torch.nn.modules.") and ".container." not in kind
    if leaf and path:
        return path
    return ".".join(filter(None, (path, node.op_type.lower())))


def _words(text: str | None) -> list[str]:
    """Parse the list that the exporter wrote with repr()."""
    if not text:
        return []
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return []
    return [str(word) for word in value] if isinstance(value, list) else []


def _drop_metadata(model: ModelProto) -> None:
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    graph.name = "resnet"
    graph.doc_string = model.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
