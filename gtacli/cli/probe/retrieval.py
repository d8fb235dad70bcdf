"""`gta probe retrieval`: image retrieval by class or by place with frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.probe.features import run_probe
from gtacli.cli.probe.table import ModelMetric
from gtacli.config.probe.retrieval import RetrievalProbeConfig
from gtacli.runtime.paths import user_path

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult, Splits


def retrieval(config: RetrievalProbeConfig, call: Call) -> int:
    """Measure how well images of the same class are retrieved.

    Each test image ranks the other test images (or the training images, --gallery train) by the
    cosine of their features. map: mean average precision; recall@k: the fraction of images with one
    of their class among the k nearest. Nothing is trained. With --ground-truth the protocol of
    revisited Oxford and Paris: queries are regions of images, easy, medium and hard.

    Features are cached (--cache) and shared by all probes. With --compare each model is tested
    against --model query by query. Images that cannot be read are reported, the others are
    processed, and the exit status is 1.
    """
    if config.ground_truth is None:

        def measure(data: ProbeData, model: LoadedModel) -> ProbeResult:
            from gtacli.probing.retrieval.by_class import retrieval

            return retrieval(data, model, config.gallery, config.recall)

        def read_splits(data: str) -> Splits:
            from gtacli.data.spec import load_dataset
            from gtacli.probing.features.evaluation import make_splits

            return make_splits(load_dataset(data), config.seed, learns=False)

        return run_probe(
            config, call, measure, partial(_rows, config.recall), read_splits=read_splits
        )

    from gtacli.probing.retrieval.revisited import (
        make_revisited_splits,
        read_ground_truth,
        revisited,
    )

    truth = read_ground_truth(config.ground_truth)
    return run_probe(
        config,
        call,
        lambda data, model: revisited(data, model, truth),
        _revisited_rows,
        read_splits=lambda folder: make_revisited_splits(truth, user_path(folder)),
    )


def _rows(recalls: Sequence[int], result: dict[str, Any]) -> list[ModelMetric]:
    tests = result.get("compared", {})
    labels = {"map": "mAP"} | {f"recall@{k}": f"recall@{k}" for k in recalls}
    return [
        ModelMetric(label, result[name], result[f"{name}_interval"], tests.get(name))
        for name, label in labels.items()
    ]


def _revisited_rows(result: dict[str, Any]) -> list[ModelMetric]:
    tests = result.get("compared", {})
    rows: list[ModelMetric] = []
    for level in ("easy", "medium", "hard"):
        name = f"map_{level}"
        if result[name] is not None:
            interval = result[f"{name}_interval"]
            rows.append(ModelMetric(f"mAP, {level}", result[name], interval, tests.get(name)))
            at_k = result[f"mp_{level}"].items()
            rows += [ModelMetric(f"mP@{k}, {level}", precision) for k, precision in at_k]
    return rows
