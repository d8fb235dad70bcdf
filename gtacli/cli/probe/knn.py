"""`gta probe knn`: the accuracy of a k-NN classifier on frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.probe.features import run_probe
from gtacli.cli.probe.table import ModelMetric
from gtacli.config.probe.knn import KnnProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult


def knn(config: KnnProbeConfig, call: Call) -> int:
    """Measure the accuracy of DINO's weighted k-NN classifier.

    The k training images nearest to a test image, by cosine of their features, vote for their
    classes, each with weight exp(cosine / temperature); nothing is trained. The search is exact,
    and one search serves all k and temperatures. Images are preprocessed as in DINO's evaluation:
    resized to 256/224 of the input, the center cut out.

    Features are cached (--cache) and shared by all probes. With --compare each model is tested
    against --model on the same images (McNemar's test). Images that cannot be read are reported,
    the others are processed, and the exit status is 1.
    """

    def measure(data: ProbeData, model: LoadedModel) -> ProbeResult:
        from gtacli.probing.classifiers.knn import knn

        return knn(data, model, config.k, config.temperature, config.main_k)

    return run_probe(config, call, measure, _rows)


def _rows(result: dict[str, Any]) -> list[ModelMetric]:
    tests, main = result.get("compared", {}), result["k"]
    top1 = [
        ModelMetric(f"k {k}", accuracy, result["knn_interval"][k], tests.get(f"knn@{k}"))
        for k, accuracy in result["knn"].items()
    ]
    interval = result["top5_interval"]
    return [*top1, ModelMetric(f"top 5, k {main}", result["top5"], interval, tests.get("top5"))]
