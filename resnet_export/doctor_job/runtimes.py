"""Which of the registered runtimes work on this machine; by the same words as `--provider` everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_export.doctor_job.facts import Facts
from runtimes.errors import RegistryError
from runtimes.inference.runtime_kind import Machine
from runtimes.inference.runtime_registry import RUNTIMES


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """One runtime: whether it works here, and with which library, or why not."""

    name: str
    title: str
    works: bool
    detail: str


def judge_runtimes(facts: Facts) -> tuple[RuntimeState, ...]:
    """Ask every runtime whether it works here; one of another package that fails is told, not raised."""
    machine = Machine(facts.gpu, facts.onnxruntime, facts.tensorrt)
    return tuple(_state(word, machine) for word in RUNTIMES)


def _state(word: str, machine: Machine) -> RuntimeState:
    try:
        kind = RUNTIMES[word]
        found = kind.probe(machine)
    except RegistryError as err:
        return RuntimeState(word, "", False, str(err))
    except Exception as err:  # the probe is another package's code; the page is there to tell what is wrong
        return RuntimeState(word, kind.title, False, f"its probe failed: {type(err).__name__}: {err}")
    return RuntimeState(word, kind.title, found.works, found.detail)
