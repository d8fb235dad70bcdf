"""`gta probe transfer`: the `knn` and `linear` accuracy of a model on one of several datasets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gtacli.models.feature_columns import name_features
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.knn import knn
from gtacli.probing.classifiers.linear import Sweep, linear
from gtacli.probing.features.evaluation import ProbeData, ProbeResult


def transfer(
    data: ProbeData,
    model: LoadedModel,
    k: int = 20,
    with_linear: bool = True,
    choose_features: bool = True,
) -> ProbeResult:
    """Compute both top-1 accuracies; for the metrics see `results.TransferResult`.

    Args:
        k: nearest neighbors.
        with_linear: compute the linear accuracy, too.
        choose_features: for it choose among the features, as `gta probe linear` does; else it has
            those of `data`.
    """
    near = knn(data, model, (k,), main_k=k)
    metrics: dict[str, Any] = {
        "knn": near.metrics["top1"],
        "knn_interval": near.metrics["top1_interval"],
        "k": k,
    }
    per_image = {"knn": near.per_image["top1"]}
    if with_linear:
        line = linear(replace(data, features="all") if choose_features else data, model, Sweep())
        metrics["linear"] = line.metrics["top1"]
        metrics["linear_interval"] = line.metrics["top1_interval"]
        names = ("chosen_on", "solver", "c", "lr", "heads")
        columns = line.columns or data.columns(model)
        metrics["chosen"] = {
            "features": name_features(columns),
            "layer": sorted({column.layer for column in columns}),
            **{name: line.metrics.get(name) for name in names},
        }
        per_image["linear"] = line.per_image["top1"]
    return ProbeResult(metrics, near.n_train, near.n_test, near.keys, per_image)
