"""`gta probe transfer`: one network on one of several data sets, by `knn` and by `linear`."""

from __future__ import annotations

from typing import Any

from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.knn import knn
from gtacli.probing.classifiers.linear import Sweep, linear
from gtacli.probing.features.evaluation import Bench, Outcome


def transfer(bench: Bench, model: LoadedModel, k: int = 20, with_linear: bool = True) -> Outcome:
    """Figures: `knn` and `linear`, top-1 accuracies, with intervals; what `linear` has chosen under
    `chosen`."""
    near = knn(bench, model, (k,), main_k=k)
    figures: dict[str, Any] = {
        "knn": near.figures["top1"],
        "knn_interval": near.figures["top1_interval"],
        "k": k,
    }
    each = {"knn": near.each["top1"]}
    if with_linear:
        line = linear(bench, model, Sweep())
        figures["linear"] = line.figures["top1"]
        figures["linear_interval"] = line.figures["top1_interval"]
        figures["chosen"] = {name: line.figures.get(name) for name in ("chosen_on", "lr", "heads")}
        each["linear"] = line.each["top1"]
    return Outcome(figures, near.n_train, near.n_test, near.keys, each)
