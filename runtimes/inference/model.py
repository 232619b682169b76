"""A loaded model as an app holds it: `run`, `classify`, their async forms, a batcher, and what really runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, overload

from runtimes.closing import Closing
from runtimes.errors import InputMismatchError, ModelClosedError, NotAClassifierError
from runtimes.fork_guard import refuse_in_a_child
from runtimes.inference.classification import Classification, Head
from runtimes.inference.dynamic_batcher import DynamicBatcher
from runtimes.inference.fixed_batch import AnyBatch, fixed_batch
from runtimes.inference.model_description import ModelDescription
from runtimes.preprocessing.model_input import Preparation
from runtimes.protocol import Array, Runtime, TensorSpec

if TYPE_CHECKING:
    from runtimes.preprocessing.image_input import Channels, ImageInput

_CHUNK = 16
"""Pictures of a list that are prepared and run at a time, so that a long list needs the memory of a few."""

_Result = TypeVar("_Result")


class Model(Closing):
    """An opened model; `runtimes.load` makes them. Any number of threads may use one.

    Args:
        runtime: What computes; closed with the model.
        description: What is told of it.
        preparation: How pictures become its input, or None where that is not known.
        head: How its outputs are read as classes, or why they cannot be.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        description: ModelDescription,
        preparation: Preparation | None = None,
        head: Head | NotAClassifierError | None = None,
    ) -> None:
        size = fixed_batch(runtime)
        self._runtime: Runtime = runtime if size is None else AnyBatch(runtime, size)
        self._run = self._runtime.run
        self._description = description
        self._preparation = preparation
        self._head = head
        self._process = os.getpid()
        self._changed = threading.Condition(threading.Lock())  # no RLock: it is taken twice in every call
        self._num_running = 0
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None

    @property
    def input_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every input; a first axis of None takes any number of rows."""
        return self._runtime.input_specs

    @property
    def output_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every output, in the model's order."""
        return self._runtime.output_specs

    @property
    def preparation(self) -> Preparation | None:
        """How pictures become the model's input, or None where that is not known."""
        return self._preparation

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Name of class i at place i, or None."""
        return self._head.labels if isinstance(self._head, Head) else None

    @property
    def is_classifier(self) -> bool:
        """Whether `classes` reads the model's outputs."""
        return isinstance(self._head, Head)

    def describe(self) -> ModelDescription:
        """Return which file runs, where each node of it runs, versions, batch sizes, and what to know about it."""
        return self._description

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any number of rows; the caller owns what is returned.

        Raises:
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
            InputMismatchError: If an input has a wrong name, dtype or shape.
            RuntimeAdapterError: When the runtime fails.
        """
        self._enter()
        try:
            return self._run(inputs)
        finally:
            self._leave()

    @overload
    def classify(
        self, image: list[ImageInput] | tuple[ImageInput, ...], *, channels: Channels | None = None, top: int = 5
    ) -> list[Classification]: ...

    @overload
    def classify(self, image: ImageInput, *, channels: Channels | None = None, top: int = 5) -> Classification: ...

    def classify(
        self, image: ImageInput | Sequence[ImageInput], *, channels: Channels | None = None, top: int = 5
    ) -> Classification | list[Classification]:
        """Say what is on a picture, or on each of a list.

        Args:
            image: A path, the bytes of an image file, a Pillow image, pixels uint8 [H, W, 3] (NumPy or DLPack), or a
                list or tuple of these.
            channels: "RGB" or "BGR", the order of an array's channels; needed for arrays and for nothing else.
            top: How many classes an answer names.

        Raises:
            ImageReadError: If a picture cannot be read; its message names the picture.
            NotAClassifierError: If the model gives no classes, or how its pictures are prepared is not known.
            ModelClosedError, RuntimeAdapterError: And whatever else `run` raises.
        """
        if not isinstance(image, (list, tuple)):
            return self.classes(self.run(self.prepare([image], channels=channels)), top=top)[0]
        found: list[Classification] = []
        for start in range(0, max(len(image), 1), _CHUNK):
            inputs = self.prepare(image[start : start + _CHUNK], channels=channels)
            found.extend(self.classes(self.run(inputs), top=top))
        return found

    def prepare(self, images: Sequence[ImageInput], *, channels: Channels | None = None) -> dict[str, Array]:
        """Return the inputs of `run` for a list of pictures as `classify` takes them.

        Raises:
            TypeError, InputMismatchError: If it is one picture instead of a list, or a list of none.
            ImageReadError, NotAClassifierError: As `classify` does for a picture.
        """
        if not isinstance(images, (list, tuple)):
            raise TypeError(f"images: got {type(images).__name__}, expected a list of pictures; [picture] for one")
        if not images:
            raise InputMismatchError("got an empty list, expected at least one picture")
        if self._preparation is None:
            raise NotAClassifierError(
                "how this model's pictures are prepared is not known: neither its folder has a manifest.json nor the "
                "file metadata; load a bundle, or prepare arrays yourself and use run()"
            )
        (name,) = self.input_specs
        pictures = [self._preparation.pixels(image, channels=channels) for image in images]
        return {name: self._preparation.batch(pictures)}

    def classes(self, outputs: Mapping[str, Array], *, top: int = 5) -> list[Classification]:
        """Return the answer for each row of what `run` returned."""
        if not isinstance(self._head, Head):
            raise self._head or NotAClassifierError("how this model's outputs are read is not known; use run()")
        return self._head.classes(outputs, top=top)

    async def run_async(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run in a thread of this model's; the event loop goes on."""
        return await self._in_thread(lambda: self.run(inputs))

    async def classify_async(
        self, image: ImageInput | Sequence[ImageInput], *, channels: Channels | None = None, top: int = 5
    ) -> Any:
        """Classify in a thread of this model's; what it returns is as `classify` returns it."""
        return await self._in_thread(lambda: self.classify(image, channels=channels, top=top))

    def batcher(self, *, max_batch: int = 8, max_wait_ms: float = 2.0, max_queue: int = 256) -> DynamicBatcher:
        """Return a batcher that gathers single requests of many callers into batches; see `DynamicBatcher`."""
        self._enter()
        self._leave()
        return DynamicBatcher(self, max_batch=max_batch, max_wait_ms=max_wait_ms, max_queue=max_queue)

    def close(self) -> None:
        """Wait for the calls that compute, then release the model; a second call does nothing."""
        self._closed = True
        if os.getpid() != self._process:
            return  # a forked child: all of it is the parent's
        with self._changed:
            self._changed.wait_for(lambda: self._num_running == 0)
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        self._runtime.close()

    def _enter(self) -> None:
        refuse_in_a_child(self._process)  # first: in a child a lock may be held for ever by a thread of the parent
        with self._changed:
            if self._closed:
                raise closed_error()
            self._num_running += 1

    def _leave(self) -> None:
        with self._changed:
            self._num_running -= 1
            if self._closed and self._num_running == 0:
                self._changed.notify_all()

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        """Run `call` in a thread. It enters there, not here: `close` may be called by the thread of the event loop."""
        import asyncio  # whoever awaits has it already; for the others it is 4 MB

        refuse_in_a_child(self._process)
        with self._changed:
            if self._closed:
                raise closed_error()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(thread_name_prefix="model")
            running = asyncio.get_running_loop().run_in_executor(self._executor, call)
        return await running


def closed_error() -> ModelClosedError:
    """Return the error of a use after close."""
    return ModelClosedError("this model is closed; load it again")
