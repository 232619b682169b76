"""Errors of the runtime side: images, preprocessing, bundles and adapters.

Wrong arguments are `ValueError` / `TypeError` at the call that is wrong; these classes are for what a correct
call met in the world (a corrupt file, a missing library, a provider that did not load).
"""

from __future__ import annotations


class RuntimeAdapterError(Exception):
    """Base class of what `runtimes` raises; the message says got, expected, what to do."""


class MissingDependencyError(RuntimeAdapterError, ImportError):
    """A library that this step needs is not installed; the message names the extra that brings it."""


class ProviderUnavailableError(RuntimeAdapterError):
    """The requested execution provider did not load; nothing ran in its place."""


class InputMismatchError(RuntimeAdapterError, ValueError):
    """An input array has a wrong name, dtype or shape."""


class ImageReadError(RuntimeAdapterError):
    """An image file is missing, corrupt, or of a kind that has no one right reading."""


class ImageFolderError(RuntimeAdapterError):
    """An image folder is missing, empty, unreadable, or does not match the labels."""


class BundleError(RuntimeAdapterError):
    """A bundle is incomplete, changed, or of a schema this version does not know."""


class SignatureError(BundleError):
    """A bundle is not signed by the key that was given, or a key cannot be read; nothing of it was used."""


class ModelClosedError(RuntimeAdapterError):
    """A model, runtime or batcher was used after `close`."""


class ForkedProcessError(RuntimeAdapterError):
    """A model was used in a forked child: threads and GPU contexts of the parent do not exist there."""


class QueueFullError(RuntimeAdapterError):
    """A batcher's queue stayed full; the request was not taken. Try again later, or shed load."""


class NotAClassifierError(RuntimeAdapterError):
    """`classify` was asked of a model that gives no classes, or whose preprocessing is not known."""


class ResultsError(RuntimeAdapterError):
    """Results of many images cannot be written, or an interrupted run's parts do not belong to this one."""


class RegistryError(RuntimeAdapterError):
    """Another package declares a runtime, method, target, family or rule that cannot be imported or is none."""
