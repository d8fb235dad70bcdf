"""`gta probe retrieval`: whether images of the same class, or of the same place, are nearest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtacli.cli.options import Call
from gtacli.cli.probe.features import run
from gtacli.cli.probe.table import Figure
from gtacli.config.probe_retrieval import RetrievalProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome
    from gtacli.probing.retrieval.revisited import GroundTruth


def retrieval(config: RetrievalProbeConfig, call: Call) -> int:
    """Are images of the same class nearest to each other?

    Each test image ranks the other test images (or the training images, --gallery train) by the
    cosine of their features. map: mean average precision; recall@k: the share of images with one of
    their class among the k nearest. Nothing is learnt. With --ground-truth the protocol of
    revisited Oxford and Paris: queries are parts of images, easy, medium and hard.

    Features are kept (--cache) and serve every probe. With --compare each model is tested against
    --model query by query. Images that cannot be read are named, the rest is done, and the exit
    status is 1.
    """
    if config.ground_truth is None:

        def measure(bench: Bench, model: LoadedModel) -> Outcome:
            from gtacli.probing.retrieval.classes import retrieval

            return retrieval(bench, model, config.gallery, config.recall)

        return run(config, call, measure, partial(_figures, config.recall))

    from gtacli.probing.retrieval.revisited import read_ground_truth, revisited, revisited_parts

    truth: GroundTruth = read_ground_truth(config.ground_truth)
    return run(
        config,
        call,
        lambda bench, model: revisited(bench, model, truth),
        _places,
        parts=lambda folder: revisited_parts(truth, Path(folder).expanduser()),
    )


def _figures(recalls: Sequence[int], result: dict[str, Any]) -> list[Figure]:
    tests = result.get("compared", {})
    labels = {"map": "mAP"} | {f"recall@{k}": f"recall@{k}" for k in recalls}
    return [
        Figure(label, result[name], result[f"{name}_interval"], tests.get(name))
        for name, label in labels.items()
    ]


def _places(result: dict[str, Any]) -> list[Figure]:
    tests, figures = result.get("compared", {}), []
    for level in ("easy", "medium", "hard"):
        name = f"map_{level}"
        if result[name] is not None:
            interval = result[f"{name}_interval"]
            figures.append(Figure(f"mAP, {level}", result[name], interval, tests.get(name)))
            shares = result[f"mp_{level}"].items()
            figures += [Figure(f"mP@{k}, {level}", share) for k, share in shares]
    return figures
