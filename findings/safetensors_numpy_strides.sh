#!/usr/bin/env bash
# Versions: safetensors 0.8.0 (safetensors.numpy), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: save_file of safetensors.numpy stores the array that it is given, whatever its layout in memory, as np.save does,
#        or refuses one that is not contiguous, as safetensors.torch does ("You are trying to save a non contiguous tensor").
# Seen:  the shape is that of the array, the bytes are those of its buffer in C order of something else: a transposed
#        weight (Keras' HWIO kernel brought to PyTorch's OIHW by transpose, which is a view), a Fortran array, a reversed or
#        a strided one come back with other values in other places. Nothing warns; shapes and dtype are right.
# Output seen: "C order True, transposed False, Fortran False, reversed False, every second False; HWIO to OIHW: 100 % of the kernel's values are elsewhere"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

array = np.arange(12, dtype=np.float32).reshape(3, 4)
layouts = {
    "C order": array,
    "transposed": array.T,
    "Fortran": np.asfortranarray(array),
    "reversed": array[::-1],
    "every second": array[:, ::2],
}
kept = {name: bool(np.array_equal(load(save({"w": each}))["w"], each)) for name, each in layouts.items()}
kernel = np.random.default_rng(0).normal(size=(3, 3, 16, 32)).astype(np.float32)  # HWIO
weight = kernel.transpose(3, 2, 0, 1)
moved = float((load(save({"w": weight}))["w"] != weight).mean())
print(", ".join(f"{name} {same}" for name, same in kept.items()), end="; ")
print(f"HWIO to OIHW: {round(100 * moved)} % of the kernel's values are elsewhere")
assert list(kept.values()) == [True, False, False, False, False] and moved > 0.9, "the behaviour changed"
PYTHON
