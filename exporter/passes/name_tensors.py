"""Name nodes and tensors after PyTorch's modules: `layer1.0.conv1`, `layer1.0.relu_1`, `layer1.0.add`.

The exporter leaves the module path of every node in its metadata. A node made by a leaf module takes the module's
path, a node made by a container's own forward (an addition, a flatten) takes path + operator; a second node under
one name gets `_1`, as a ReLU that is called twice. A node and its first output share the name. Graph inputs,
graph outputs and weights keep theirs. The metadata itself is then dropped: it holds stack traces with the paths of
the machine that exported.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from exporter.graph.onnx_graph import PassResult, copy_model, free_name, rename_tensors

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def name_after_modules(model: ModelProto) -> PassResult:
    """Return a copy with readable names and without exporter metadata; `num_changes` counts renamed nodes."""
    result = copy_model(model)
    graph = result.graph
    fixed = {info.name for infos in (graph.input, graph.output) for info in infos}
    given = fixed | {tensor.name for tensor in graph.initializer}
    bases = [_base_name(node) for node in graph.node]
    bases = [
        f"{base}.{node.op_type.lower()}" if base in given else base
        for base, node in zip(bases, graph.node, strict=True)
    ]
    names = _FreeNames(taken=set(given), reserved=frozenset(bases))
    renamed: dict[str, str] = {}
    for node, base in zip(graph.node, bases, strict=True):
        node.name = names.claim(base)
        for place, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = node.name if place == 0 else names.claim(f"{node.name}.{place}", own=False)
    rename_tensors(graph, renamed)
    _name_transposed_weights(graph, names)
    _drop_metadata(result)
    return PassResult(result, len(graph.node))


def _name_transposed_weights(graph: GraphProto, names: _FreeNames) -> None:
    """Call the weight of a MatMul, which the exporter transposed and numbered, `<module>.weight`, in place."""
    initializer = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        old = node.input[1] if node.op_type == "MatMul" else ""
        if old in initializer and uses[old] == 1 and re.fullmatch(r"val_\d+", old):
            new = names.claim(f"{node.name}.weight", own=False)
            initializer[old].name = node.input[1] = new


@dataclass(frozen=True, slots=True)
class _FreeNames:
    """Hands out every name once. The second `relu` is `relu_1`, or `relu_2` where a module is called `relu_1`."""

    taken: set[str]
    reserved: frozenset[str]

    def claim(self, base: str, *, own: bool = True) -> str:
        """Return `base`, or `base` with the first number that makes it new; `own`: a node is called so."""
        allowed = base if own else ""
        name = free_name(base, lambda word: word in self.taken or (word in self.reserved and word != allowed))
        self.taken.add(name)
        return name


def _base_name(node: NodeProto) -> str:
    """Return the module path of a node, with the operator appended when the module is a container."""
    scopes, classes = scopes_and_classes(node)
    if len(scopes) < 2 or len(classes) != len(scopes):
        return str(node.name or node.op_type.lower())
    path, kind = scopes[-2], classes[-2]
    leaf = kind.startswith("torch.nn.modules.") and ".container." not in kind
    leaf = leaf or (node.op_type == "BatchNormalization" and "BatchNorm" in kind)  # the folding report says the path
    if leaf and path:
        return path
    return ".".join(filter(None, (path, node.op_type.lower())))


def scopes_and_classes(node: NodeProto) -> tuple[list[str], list[str]]:
    """Return the modules that `torch.onnx.export` noted a node to be in, outermost first, and their classes."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    return _words(metadata.get(_SCOPES, "")), _words(metadata.get(_CLASSES, ""))


def _words(text: str) -> list[str]:
    """Parse the list that the exporter wrote with repr()."""
    try:
        words = ast.literal_eval(text) if text else []
    except (SyntaxError, ValueError):
        return []
    return [str(word) for word in words] if isinstance(words, list) else []


def _drop_metadata(model: ModelProto) -> None:
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    graph.name = "resnet"
    graph.doc_string = model.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
