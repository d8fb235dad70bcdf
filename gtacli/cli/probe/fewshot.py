"""`gta probe fewshot`: accuracy with a few labeled images of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.probe.features import run_probe
from gtacli.cli.probe.table import ModelMetric
from gtacli.config.probe.fewshot import FewshotProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult


def fewshot(config: FewshotProbeConfig, call: Call) -> int:
    """Measure the accuracy with a few training images of each class.

    In each of several draws --shots images of each class are drawn from the training split, a
    linear classifier, the class means and DINO's k-NN vote are fitted to their features, and all
    test images are classified. Reports the mean over the draws and its 95 % interval. A class with
    fewer images gives all it has.

    Features are cached (--cache) and shared by all probes. With --compare each model gets the same
    draws and is tested against --model image by image. Images that cannot be read are reported, the
    others are processed, and the exit status is 1.
    """

    def measure(data: ProbeData, model: LoadedModel) -> ProbeResult:
        from gtacli.probing.classifiers.fewshot import fewshot

        return fewshot(
            data,
            model,
            config.shots,
            config.draws,
            config.classifier,
            config.c,
            config.k,
            config.temperature,
        )

    return run_probe(config, call, measure, _rows)


def _rows(result: dict[str, Any]) -> list[ModelMetric]:
    tests, intervals = result.get("compared", {}), result["fewshot_interval"]
    return [
        ModelMetric(
            f"{method}, {n} a class", mean, intervals[n][method], tests.get(f"{method}@{n}")
        )
        for n, by_method in result["fewshot"].items()
        for method, mean in by_method.items()
    ]
