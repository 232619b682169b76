#!/usr/bin/env bash
# torcheval 0.0.7 (with torch 2.14.1), NumPy 2.4.6.
#
# Guess: multiclass_accuracy(scores, labels, k=5) and MulticlassAccuracy(k=5) count how often the label is among the five
# classes that torch.topk names. A network that answers NaN, or the same for every class (an engine whose FP16 overflowed,
# whose weights were not loaded), is at chance: 0.5 % of 1000 classes, as k=1 has it at 0.1 %.
# Seen: k=1 takes the argmax; any other k counts the classes with a larger score than the label's. Nothing is larger than NaN,
# and no score is larger than its equal: such a network is 100 % right at k=2 already, and hit_rate and the mean reciprocal rank
# are 1. So the top-5 column of a report is best where the engine is broken. One picture of NaN in ten lifts top-5 by 10 points.
# Scores on a coarse grid (INT8 logits) gain as well, since all that tie with the fifth are in. Nothing warns.
#
# Output seen:
#   1000 classes: NaN k=1 0.2 %, k=2 100.0 %, k=5 100.0 %; equal scores k=5 100.0 %; hit rate and reciprocal rank of NaN 1.0, 1.0; chance with a tenth NaN: topk 0.4 %, k=5 10.4 %; scores in steps of 1: topk 0.4 %, k=5 2.4 %
#
# Exits with 1 if that changes. Needs pip and Python 3.11; torch is the large part of the download. With
# PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check torcheval==0.0.7 torch==2.14.1 numpy==2.4.6
fi
"$python" - 2>"$folder/log" <<'PYTHON'
import sys

import numpy as np
import torch
from torcheval.metrics import MulticlassAccuracy
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank

random = np.random.default_rng(0)
pictures, classes = 2000, 1000
labels = torch.from_numpy(random.integers(0, classes, pictures))
scores = torch.from_numpy(random.normal(size=(pictures, classes)).astype(np.float32))
nan, equal = torch.full_like(scores, torch.nan), torch.zeros_like(scores)


def percent(given: torch.Tensor, k: int) -> float:
    """Return torcheval's accuracy, which its function and its class agree on."""
    metric = MulticlassAccuracy(k=k)
    metric.update(given, labels)
    value = float(multiclass_accuracy(given, labels, k=k))
    assert abs(value - float(metric.compute())) < 1e-6
    return round(100 * value, 1)


def by_topk(given: torch.Tensor) -> float:
    """Return how often the label is among torch.topk's five, where a picture of NaN counts as wrong."""
    hits = (torch.topk(given, 5).indices == labels[:, None]).any(1) & ~given.isnan().any(1)
    return round(100 * float(hits.float().mean()), 1)


broken = scores.clone()
broken[::10] = torch.nan
coarse = scores.round()
ranks = [round(float(metric(nan, labels, k=5).mean()), 1) for metric in (hit_rate, reciprocal_rank)]
found = [percent(nan, 1), percent(nan, 2), percent(nan, 5), percent(equal, 5)]
print(
    f"1000 classes: NaN k=1 {found[0]} %, k=2 {found[1]} %, k=5 {found[2]} %; equal scores k=5 {found[3]} %; hit rate and "
    f"reciprocal rank of NaN {ranks[0]}, {ranks[1]}; chance with a tenth NaN: topk {by_topk(broken)} %, k=5 "
    f"{percent(broken, 5)} %; scores in steps of 1: topk {by_topk(coarse)} %, k=5 {percent(coarse, 5)} %"
)
right = percent(scores, 5) == by_topk(scores)
rises = percent(broken, 5) > 9 + by_topk(broken) and percent(coarse, 5) > 1.5 * by_topk(coarse)
sys.exit(not (right and rises and found[0] < 1 and found[1:] == [100, 100, 100] and ranks == [1, 1]))
PYTHON
