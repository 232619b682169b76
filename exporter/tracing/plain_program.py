"""Capture a module as a program that `torch.onnx` need not decompose, which is about half of tracing.

Decomposing traces the program anew, operator by operator. Of what convolutional networks are made of, it changes this:

    relu_(x), add_(x, y), ...              ->  relu(x), add(x, y)                        in place
    copy_(x, hardtanh(x))                  ->  hardtanh(x)                               likewise (`decompositions`)
    batch_norm(x, ..., training=False)     ->  _native_batch_norm_legit_no_training
    batch_norm(x, no stored statistics)    ->  _native_batch_norm_legit.no_stats
    dropout(x, p, train=False)             ->  x
    flatten(x), reshape(x), reshape_as(x, y), expand_as(x, y)  ->  reshape(x, sizes), expand(x, sizes)

That is done here in the graph, where nothing else looks at what is written in place. A program with any operator that
is not named here is decomposed as ever. The ONNX file is the same, byte for byte; where it computes with sizes or
splits, the numbers in names that PyTorch makes up (`val_12`, `node_Split_150`) may be others.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

aten = torch.ops.aten

_ACTIVATIONS = ("elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "relu", "sigmoid", "silu")
_OUT_OF_PLACE = {
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    **{getattr(aten, f"{name}_").default: getattr(aten, name).default for name in _ACTIVATIONS},
}
_BATCH_NORM = aten.batch_norm.default
_COPY = aten.copy_.default
_SIZED = {
    aten.expand_as.default: aten.expand.default,
    aten.flatten.using_ints: aten.reshape.default,
    aten.reshape.default: aten.reshape.default,
    aten.reshape_as.default: aten.reshape.default,
}
"""What computes its sizes, and what takes them as they are."""
_TAKE_SIZES_OF_OTHERS = {aten.expand_as.default, aten.reshape_as.default}
_DROPOUT = {aten.dropout.default, aten.dropout_.default}
_MAKE_TENSORS = {
    *_OUT_OF_PLACE,
    *_OUT_OF_PLACE.values(),
    _BATCH_NORM,
    _COPY,
    aten.addcmul.default,
    aten.amax.default,
    aten.avg_pool2d.default,
    aten.cat.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.div.Tensor,
    aten.gelu.default,
    aten.layer_norm.default,
    aten.linalg_vector_norm.default,
    aten.linear.default,
    aten.matmul.default,
    aten.max_pool2d.default,
    aten.mean.dim,
    aten.softmax.int,
    aten.stack.default,
    aten.sum.dim_IntList,
}
"""Operators whose result shares no memory with anything but what they write in place."""

_KNOWN = {
    *_MAKE_TENSORS,
    *_DROPOUT,
    *_SIZED,
    aten.pad.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.sym_size.int,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
    aten.view.default,
    operator.getitem,
    operator.mul,
}


class _Plain(ExportedProgram):
    """A program that is decomposed already."""

    def run_decompositions(self, *args: object, **kwargs: object) -> ExportedProgram:
        """Return the program itself: what `torch.onnx.export` begins with."""
        return self


def capture(module: nn.Module, example: Tensor, dynamic_shapes: tuple[Any, ...]) -> nn.Module | ExportedProgram:
    """Return the module as a program, decomposed where that can be done here; the module where it cannot be captured.

    Args:
        module: In evaluation mode.
        example: Its input.
        dynamic_shapes: As for `torch.export.export`.
    """
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic_shapes, strict=False)
    except Exception:  # of many types; torch.onnx has other ways to capture, and says why none of them works
        return module
    graph = program.graph
    if all(_is_plain(node) for node in graph.nodes if node.op not in ("placeholder", "output")):
        for node in list(graph.nodes):
            _rewrite(graph, node)
        program.graph_module.recompile()
        program.__class__ = _Plain
    return program


def _is_plain(node: fx.Node) -> bool:
    """Tell whether a node is an operator of the table above that means the same out of place."""
    if node.target not in _KNOWN:
        return False
    if node.target in _OUT_OF_PLACE:
        return _is_own(node, {node})
    if node.target is _COPY:
        return _is_own(node, {node, node.args[1]}) and _is_free(node)
    if node.target in _DROPOUT:
        return not node.args[2] and _is_free(node)
    if node.target in _TAKE_SIZES_OF_OTHERS:
        return _are_known(node.meta["val"].shape)
    return node.target is not _BATCH_NORM or bool(node.args[5]) is (node.args[3] is None)


def _are_known(sizes: torch.Size) -> bool:
    """Tell whether every size is a number but the first, which may be the batch's."""
    return all(
        not isinstance(size, torch.SymInt) or (axis == 0 and bool(size.node.expr.is_Symbol))
        for axis, size in enumerate(sizes)
    )


def _is_own(node: fx.Node, readers: set[Any]) -> bool:
    """Tell whether nobody but `readers` reads what the node writes to, and what it writes has that type already."""
    tensors = [each for each in node.args if isinstance(each, fx.Node)]
    source = tensors[0]
    is_of_type = len({getattr(each.meta["val"], "dtype", None) for each in tensors}) == 1
    return is_of_type and source.target in _MAKE_TENSORS and source.users.keys() == readers


def _is_free(node: fx.Node) -> bool:
    """Tell whether the node may go: the program's signature holds the names of what it returns."""
    return all(user.op != "output" for user in node.users)


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    """Put one node into the form of the table above."""
    if node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
    elif node.target is _COPY or node.target in _DROPOUT:
        value = node.args[1 if node.target is _COPY else 0]
        assert isinstance(value, fx.Node)
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    elif node.target in _SIZED and _are_known(node.meta["val"].shape):
        sizes = [_batch(graph) if isinstance(size, torch.SymInt) else size for size in node.meta["val"].shape]
        node.target, node.args, node.kwargs = _SIZED[node.target], (node.args[0], sizes), {}
    elif node.target is _BATCH_NORM:
        *tensors, of_batch, momentum, epsilon, _ = node.args
        value = node.meta["val"]
        target, given = aten._native_batch_norm_legit_no_training.default, tensors
        if of_batch:
            target, given = aten._native_batch_norm_legit.no_stats, [*tensors[:3], True]
        with graph.inserting_before(node):
            normalized = graph.call_function(target, (*given, momentum, epsilon))
        normalized.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
        node.target, node.args = operator.getitem, (normalized, 0)


def _batch(graph: fx.Graph) -> fx.Node:
    """Return the node that is the number of images, right behind the images."""
    images: fx.Node = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for user in images.users:
        if user.target is aten.sym_size.int and user.args == (images, 0):
            images.append(user)
            return user
    with graph.inserting_after(images):
        size: fx.Node = graph.call_function(aten.sym_size.int, (images, 0))
    size.meta = {"val": images.meta["val"].shape[0]}
    return size
