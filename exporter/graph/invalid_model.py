"""What is wrong with a model that onnx's checker refuses, in words that say where and what to do.

The checker names a field of the format (`Field 'shape' of 'type' is required but missing`), not the tensor nor a way
out. Here the model is looked at again, in the order in which the checker does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from exporter.graph.onnx_graph import STANDARD_DOMAINS, infer_types, node_name

AGAIN = "export it anew, or report it to the tool that wrote the file"


def complete(model: ModelProto) -> None:
    """Fill in, in place, what readers do without and the checker does not: a graph's name, the types of its outputs.

    ONNX's own operators then have one name of their domain, and one entry of their opset.
    """
    model.graph.name = model.graph.name or "graph"
    _name_standard_domain(model)
    bare = [info for info in model.graph.output if not _has_shape(info)]
    if not bare:
        return
    try:
        types = infer_types(model)
    except Exception:  # inference raises unrelated types; what is wrong is told by whoever looks next
        return
    for info in bare:
        known = types.get(info.name)
        if known is not None and known.tensor_type.HasField("shape"):
            info.type.CopyFrom(known)


def _name_standard_domain(model: ModelProto) -> None:
    """Write "ai.onnx" as "", which means the same, and an opset that is imported twice once, in place."""
    versions: dict[str, set[int]] = {}
    for entry in list(model.opset_import):
        domain = _own_name(entry.domain)
        if entry.version in versions.setdefault(domain, set()):
            model.opset_import.remove(entry)
        else:
            entry.domain = domain
            versions[domain].add(entry.version)
    for node in model.graph.node:
        node.domain = _own_name(node.domain)


def _own_name(domain: str) -> str:
    """Return a domain's name, of the two that ONNX's own operators' has the short one."""
    return "" if domain in STANDARD_DOMAINS else domain


def names_two_opsets(model: ModelProto) -> bool:
    """Tell whether a file imports ONNX's own operators more than once, of which readers take either."""
    return sum(entry.domain in STANDARD_DOMAINS for entry in model.opset_import) > 1


def why_invalid(model: ModelProto, checked: str) -> str:
    """Return what is wrong with a model and what to do, given what the checker says of it."""
    told = " ".join(checked.split())
    return next(_problems(model, told), "") or f"{told[:300].rstrip('.')}; {AGAIN}"


def why_not_walkable(graph: GraphProto) -> str:
    """Return why one cannot follow the graph from tensor to tensor, such as a loop; or an empty string.

    ONNX wants every tensor made once, and before it is read. Source: ONNX IR specification, "Graphs".
    """
    given = {info.name: "an input" for info in graph.input} | {
        tensor.name: "a constant" for tensor in graph.initializer
    }
    made: set[str] = set()
    for node in graph.node:
        if not any(node.output):
            return f"node {node_name(node)!r} has no output"
        for name in filter(None, node.output):
            if name in made:
                return f"tensor {name!r} is made by two nodes"
            if name in given:
                return f"tensor {name!r} is {given[name]}, and made by node {node_name(node)!r}, too"
            made.add(name)
    later = set(made)
    for node in graph.node:
        if early := next((name for name in node.input if name in later), ""):
            return f"node {node_name(node)!r} reads {early!r}, which is made after it"
        later.difference_update(node.output)
    return ""


def _problems(model: ModelProto, told: str) -> Iterator[str]:
    yield from _version_problems(model)
    yield from _declaration_problems(model.graph)
    if reason := why_not_walkable(model.graph):
        yield f"{reason} (every node makes a tensor, once, before it is read); {AGAIN}"
    yield from _missing_tensors(model.graph)
    yield from _node_problems(model, told)
    if match := re.search(
        r"tensor name: (\S+?)\) .*(too small|raw_data size|UNDEFINED|does not match|should be stored)", told
    ):
        what = "has no type" if match[2] == "UNDEFINED" else "does not hold as many values as its shape says"
        yield f"constant {match[1]!r} {what}: the file is damaged, copy it again or export it anew"


def _version_problems(model: ModelProto) -> Iterator[str]:
    newest = int(onnx.IR_VERSION)
    if model.ir_version > newest:
        yield (
            f"its IR version is {model.ir_version}, and onnx {onnx.__version__} reads up to {newest}; install a newer "
            "onnx, or export it anew with opset 17 or 20"
        )
    if model.ir_version < 3:
        yield f"its IR version is {model.ir_version}, older than any opset that is read here; export it anew"
    opsets = [str(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if not opsets:
        yield (
            "it does not say of which opset its operators are (opset_import is empty); export it anew, or enter the "
            "opset that it was written with"
        )
    if names_two_opsets(model):
        yield f"it says {' and '.join(opsets)} for the opset of the same operators; export it anew"


def _declaration_problems(graph: GraphProto) -> Iterator[str]:
    for kind, infos in (("input", graph.input), ("output", graph.output)):
        for info in infos:
            if not info.type.tensor_type.elem_type:
                yield f"{kind} {info.name!r} has no type; expected float32; export it anew"
            if not _has_shape(info):
                shape = "[N, 3, H, W], sizes or names of axes" if kind == "input" else "[N, classes]"
                yield f"{kind} {info.name!r} has no shape; expected {shape}; export it with the shapes of its inputs"
        names = Counter(info.name for info in infos)
        if twice := [name for name, count in names.items() if count > 1]:
            yield f"{kind} {twice[0]!r} is declared twice; {AGAIN}"
    names = Counter(tensor.name for tensor in graph.initializer)
    if twice := [name for name, count in names.items() if count > 1]:
        yield f"constant {twice[0]!r} is stored twice, under one name; {AGAIN}"


def _missing_tensors(graph: GraphProto) -> Iterator[str]:
    known = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                reads = f"node {node_name(node)!r} reads {name!r}"
                yield f"{reads}, which nothing makes: a part of the graph is gone; {AGAIN}"
    for info in graph.output:
        if info.name not in known:
            yield f"its output {info.name!r} is made by no node: a part of the graph is gone; {AGAIN}"


def _node_problems(model: ModelProto, told: str) -> Iterator[str]:
    """Yield what is wrong with the node that the checker speaks of, and with no other."""
    opsets = {_own_name(entry.domain): entry.version for entry in model.opset_import}
    for node in model.graph.node:
        domain = _own_name(node.domain)
        if not node.op_type:
            yield f"node {node_name(node)!r} does not say which operator it is; {AGAIN}"
        if domain not in opsets:
            yield (
                f"node {node_name(node)!r} is a {node.op_type} of domain {node.domain!r}, which is not ONNX's own; "
                "export it without optimizations for one runtime"
            )
        if f"No Op registered for {node.op_type} " in told and domain == "" and not _is_known(node, opsets[""]):
            yield f"node {node_name(node)!r} is a {node.op_type}, which opset {opsets['']} does not have; {AGAIN}"
    if match := re.match(r"(.*?)\.? *==> Context: Bad node spec for node\. Name: (.*?) OpType: (\S*)", told):
        yield f"node {match[2] or match[3]!r} is no {match[3]} as its opset has it: {match[1]}; {AGAIN}"


def _is_known(node: NodeProto, opset: int) -> bool:
    try:
        onnx.defs.get_schema(node.op_type, opset, "")
    except Exception:  # a class of onnx's C++ part
        return False
    return True


def _has_shape(info: ValueInfoProto) -> bool:
    return bool(info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"))
