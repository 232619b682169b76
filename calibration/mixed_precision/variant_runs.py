"""Run Q/DQ models that share their beginnings, corrected biases included, without computing anything twice.

A run stands at a place of the float graph and holds the tensors that later nodes read, for every image; another model
may go on from there. On its way it corrects the biases of quantized layers as `refinement.refine` does: the first
images tell the correction, and all of them see it. Pieces of graphs that are alike share one session.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from calibration.mixed_precision.variants import Variant, digest_of
from calibration.pipeline.quantize_model import CalibratedModel
from calibration.refinement.bias_correction import bias_correction, channel_means
from calibration.refinement.layer_constants import LayerConstants
from calibration.refinement.layerwise_walk import OpenRuntime, quantized_layers
from calibration.refinement.subgraph import PieceMaker, constant_nodes, nodes_between
from exporter.graph.onnx_graph import with_outputs
from exporter.graph.weighted_ops import WEIGHTED_OPS
from runtimes.closing import Closing
from runtimes.protocol import Runtime, outputs_of
from runtimes.side_by_side import SideBySide, in_order, pool_of

Images = NDArray[np.float32]
Means = NDArray[np.float64]

NUM_SAMPLE = 16
"""Images of the sample that biases are corrected for; a file is corrected for up to 64.

On a ResNet-18, 16 instead of 32 move every figure by up to 1.1 dB, and the five worst of ten blocks stay the five worst
(measured).
"""

_SLOW = frozenset(("MatMul", "Div", "Reciprocal", "LpNormalization"))
"""A MatMul's bias is another node's constant; networks that divide by features keep their zeros."""


def can_share(model: ModelProto) -> bool:
    """Tell whether the bias of every layer of a float model is corrected at the layer itself."""
    return len(model.graph.input) == 1 and not any(node.op_type in _SLOW for node in model.graph.node)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run that stands before a node.

    Attributes:
        place: The node's place in the float graph.
        sample: By batch of the sample, tensor name to array, of what is read from here on; empty where no bias is left
            to correct.
        images: The same of the further images.
    """

    place: int
    sample: tuple[dict[str, Images], ...]
    images: tuple[dict[str, Images], ...]


class VariantRuns(Closing):
    """Runs the variants of one float model on the same images.

    Args:
        calibrated: The float model, and the images of the sample that biases are corrected for.
        cuts: Places of the float graph where pieces end, beside quantized layers.
        side_by_side: Opens models so that Q/DQ is computed as written, for batches that run side by side.
    """

    def __init__(self, calibrated: CalibratedModel, cuts: Iterable[int], side_by_side: SideBySide) -> None:
        self._graph = calibrated.model.graph
        self._sample = _first_images(calibrated.sample, NUM_SAMPLE) if calibrated.effort.correct_biases else ()
        self._cuts = frozenset(cuts)
        self._open, self._streams = side_by_side.open, side_by_side.streams
        self._means = _layer_means(calibrated.model, self._sample, self._open)
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(pool_of(self._streams))
        self._sessions: dict[bytes, Runtime] = {}
        self._places = {node.name: place for place, node in enumerate(self._graph.node)}
        self._live = _live_tensors(self._graph)

    def begin(self, images: Sequence[Images]) -> Run:
        """Return a run before the first node; batches of further images, float32 [n, C, H, W], go beside the sample."""
        entry = self._graph.input[0].name
        sample, further = ([{entry: np.ascontiguousarray(batch)} for batch in part] for part in (self._sample, images))
        return Run(0, tuple(sample), tuple(further))

    def go_on(self, variant: Variant, run: Run, stop: int) -> Run:
        """Return the run when `variant` has taken it to place `stop`; the given one is unchanged.

        Args:
            variant: Whose nodes run; constants of its corrected layers are edited.
            run: Where it begins.
            stop: The place, not before the run's; the number of nodes of the float graph for the end.
        """
        graph = variant.model.graph
        constants = constant_nodes(graph)
        pieces = PieceMaker(variant.model, constants)
        layers = {self._places[name]: name for name in quantized_layers(variant.model) if name in self._places}
        nodes = {node.name: node for node in graph.node}
        biases = LayerConstants(graph)
        ends = {place + 1 for place in layers} | self._cuts
        now = run
        for end in sorted({*(end for end in ends if run.place < end < stop), stop}):
            if stop == len(self._places) and not any(place >= now.place for place in layers):
                now = replace(now, sample=())  # what it is for has been done
            now = self._piece(variant, pieces, constants, now, end)
            if now.sample and (name := layers.get(end - 1)) is not None:
                self._correct(nodes[name], now, biases)
        return now

    def logits(self, run: Run) -> list[Images]:
        """Return the first output of a run at its end, batch by batch, of the further images."""
        return [values[self._graph.output[0].name] for values in run.images]

    def close(self) -> None:
        """Release every piece."""
        self._stack.close()
        self._sessions.clear()

    def _piece(self, variant: Variant, make: PieceMaker, constants: dict[str, NodeProto], run: Run, end: int) -> Run:
        wanted = [name for name in self._live[end] if name not in self._live[run.place]]
        kept = [name for name in self._live[end] if name in self._live[run.place]]
        session, inputs = None, []
        if wanted:
            nodes = nodes_between(variant.model.graph, set(self._live[run.place]), wanted, constants)
            session = self._session(variant, make, nodes, wanted, constants)
            inputs = list(session.input_specs)

        def after(values: dict[str, Images]) -> dict[str, Images]:
            made = {} if session is None else session.run({name: values[name] for name in inputs})
            return {**{name: values[name] for name in kept}, **made}

        batches = (*run.sample, *run.images)
        done = tuple(in_order((partial(after, values) for values in batches), self._streams, self._pool))
        return Run(end, done[: len(run.sample)], done[len(run.sample) :])

    def _session(
        self,
        variant: Variant,
        make: PieceMaker,
        nodes: Sequence[NodeProto],
        wanted: Sequence[str],
        constants: dict[str, NodeProto],
    ) -> Runtime:
        read = _constants_of(nodes, constants)
        parts = [node.SerializeToString() for node in (*read, *nodes)]
        names = dict.fromkeys(name for node in (*read, *nodes) for name in node.input if name in variant.digests)
        key = digest_of((*parts, *(variant.digests[name] for name in names), *(name.encode() for name in wanted)))
        if key not in self._sessions:
            self._sessions[key] = self._stack.enter_context(self._open(make(nodes, wanted)))
        return self._sessions[key]

    def _correct(self, node: NodeProto, run: Run, biases: LayerConstants) -> None:
        """Correct a layer's bias for what the sample shows, in its constants and in every image's output."""
        sample, images = ([values[node.output[0]] for values in part] for part in (run.sample, run.images))
        found = channel_means(sample)
        wanted = bias_correction(self._means[node.name] - found)
        applied = biases.add_to_bias(node, wanted).astype(np.float32)
        for batch in (*sample, *images):
            batch += applied.reshape(1, -1, *(1,) * (batch.ndim - 2))


def _first_images(batches: Sequence[Images], count: int) -> tuple[Images, ...]:
    """Return the batches of the first `count` images."""
    found: list[Images] = []
    for batch in batches:
        if missing := count - sum(map(len, found)):
            found.append(batch[:missing])
    return tuple(found)


def _layer_means(model: ModelProto, batches: Sequence[Images], open_runtime: OpenRuntime) -> dict[str, Means]:
    """Return, by layer, the mean of each channel that it gives for each image, float64 [n, C]."""
    output_of = {node.name: node.output[0] for node in model.graph.node if node.op_type in WEIGHTED_OPS}
    if not batches:
        return {}
    found: list[dict[str, Means]] = []
    with open_runtime(with_outputs(model, list(output_of.values()))) as runtime:
        for image in (batch[place : place + 1] for batch in batches for place in range(len(batch))):
            outputs = outputs_of(runtime, image)
            found.append({name: channel_means([outputs[output]]) for name, output in output_of.items()})
    return {name: np.concatenate([of_image[name] for of_image in found]) for name in output_of}


def _live_tensors(graph: GraphProto) -> list[tuple[str, ...]]:
    """Return, for every place and the end, the tensors made before it that are read from it on; no constants."""
    nodes, constants = graph.node, constant_nodes(graph)
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    last[graph.output[0].name] = len(nodes)
    live = [graph.input[0].name]
    found = [tuple(live)]
    for place, node in enumerate(nodes):
        live += [name for name in node.output if name not in constants]
        live = [name for name in live if last.get(name, -1) > place]
        found.append(tuple(live))
    return found


def _constants_of(nodes: Sequence[NodeProto], constants: dict[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes that make constants which `nodes` read, directly or not."""
    found: dict[str, NodeProto] = {}
    waiting = [name for node in nodes for name in node.input]
    while waiting:
        name = waiting.pop()
        if name in constants and name not in found:
            found[name] = constants[name]
            waiting.extend(constants[name].input)
    return [found[name] for name in sorted(found)]
