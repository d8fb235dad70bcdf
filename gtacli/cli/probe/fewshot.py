"""`gta probe fewshot`: what a few labelled images of each class are enough for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.options import Call
from gtacli.cli.probe.features import run
from gtacli.cli.probe.table import Figure
from gtacli.config.probe_fewshot import FewshotProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome


def fewshot(config: FewshotProbeConfig, call: Call) -> int:
    """Accuracy with a few training images of each class.

    So many images of each class are drawn from the training part, several times over; on their
    features a linear classifier is trained, the classes' means are taken, and DINO's k-NN vote is
    held, and all test images are asked. The mean over the draws and its 95 % interval. A class with
    fewer images gives all it has.

    Features are kept (--cache) and serve every probe. With --compare each model gets the same draws
    and is tested against --model image by image. Images that cannot be read are named, the rest is
    done, and the exit status is 1.
    """

    def measure(bench: Bench, model: LoadedModel) -> Outcome:
        from gtacli.probing.classifiers.fewshot import fewshot

        return fewshot(
            bench,
            model,
            config.shots,
            config.draws,
            config.classifier,
            config.c,
            config.k,
            config.temperature,
        )

    return run(config, call, measure, _figures)


def _figures(result: dict[str, Any]) -> list[Figure]:
    tests, intervals = result.get("compared", {}), result["fewshot_interval"]
    return [
        Figure(f"{method}, {n} a class", share, intervals[n][method], tests.get(f"{method}@{n}"))
        for n, by_method in result["fewshot"].items()
        for method, share in by_method.items()
    ]
