"""Hundreds of thousands of inferences over threads, and a thousand opens and closes: does anything grow?

    python tests/robustness/soak.py [--inferences 200000] [--threads 8] [--cycles 1000]

Memory (resident, after a warm-up of a tenth), open files and threads are counted at every tenth. The median of the last
three tenths may be at most 1 % above the median of the first three; files and threads must be as many as before.
Every answer must be that of the first run, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forked_runs import ROOT, WEIGHTS

MOST_GROWTH = 0.01


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_files() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def num_threads() -> int:
    """Return how many threads the system counts in this process."""
    return len(os.listdir("/proc/self/task"))


def measure(step: Callable[[], None], steps: int) -> tuple[list[int], list[str]]:
    """Do a warm-up and ten tenths; return the memory after each tenth, and failures."""
    step()
    files, threads = num_files(), num_threads()
    memory = []
    for _ in range(steps):
        step()
        memory.append(resident_bytes())
    early, late = statistics.median(memory[:3]), statistics.median(memory[-3:])
    failures = [] if late <= early * (1 + MOST_GROWTH) else [f"memory grew from {early:,.0f} to {late:,.0f} bytes"]
    failures += [] if num_files() <= files else [f"{num_files()} open files, {files} before"]
    failures += [] if num_threads() <= threads else [f"{num_threads()} threads, {threads} before"]
    return memory, failures


def infer(model: Path, inferences: int, threads: int, size: int = 32) -> tuple[list[int], list[str]]:
    """Run one open model from many threads."""
    import numpy as np

    from runtimes.ort.adapter import OrtRuntime

    images = np.random.default_rng(1).normal(size=(threads, 1, 3, size, size)).astype(np.float32)
    wrong: list[int] = []
    with OrtRuntime(model, num_threads=1) as runtime:
        expected = [runtime.run({"input": image})["logits"] for image in images]

        def work(place: int, count: int) -> None:
            for _ in range(count):
                if not np.array_equal(runtime.run({"input": images[place]})["logits"], expected[place]):
                    wrong.append(place)

        with ThreadPoolExecutor(threads) as pool:  # the same threads all along
            together = threading.Barrier(threads)
            list(pool.map(lambda _: together.wait(), range(threads)))  # the pool starts threads only when it needs them

            def step() -> None:
                list(pool.map(work, range(threads), [inferences // 11 // threads] * threads))

            memory, failures = measure(step, 10)
    return memory, failures + ([f"{len(wrong)} answers differ"] if wrong else [])


def open_and_close(model: Path, cycles: int, size: int = 32) -> tuple[list[int], list[str]]:
    """Open the model, run it once and close it, again and again."""
    import numpy as np

    from runtimes.ort.adapter import OrtRuntime

    image = np.zeros((1, 3, size, size), np.float32)

    def step() -> None:
        for _ in range(cycles // 11):
            with OrtRuntime(model, num_threads=2) as runtime:
                runtime.run({"input": image})

    return measure(step, 10)


def main() -> int:
    """Do both; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inferences", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--cycles", type=int, default=1000)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.onnx"
        process = os.fork()
        if not process:  # torch stays out of the process that is measured
            import onnx

            from exporter import export_resnet

            onnx.save(export_resnet("cifar_resnet20", weights=str(WEIGHTS)).onnx, model)
            os._exit(0)
        os.waitpid(process, 0)
        inferences, cycles, threads = options.inferences, options.cycles, options.threads
        runs: list[tuple[str, int, Callable[[], tuple[list[int], list[str]]]]] = [
            (f"inferences over {threads} threads", inferences, lambda: infer(model, inferences, threads)),
            ("opens and closes", cycles, lambda: open_and_close(model, cycles)),
        ]
        for what, count, run in runs:
            if not count:
                continue
            begin = time.monotonic()
            memory, failures = run()
            failed += len(failures)
            growth = statistics.median(memory[-3:]) / statistics.median(memory[:3]) - 1
            print(
                f"{what}: {count}, {len(failures)} failures, {time.monotonic() - begin:.0f} s: memory {growth:+.2%}, "
                f"{memory[-1] / 1e6:.0f} MB"
            )
            for failure in failures:
                print(f"  {failure}")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
