"""`gta probe knn`: which training images are near, and whether they are of the same class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.options import Call
from gtacli.cli.probe.features import run
from gtacli.cli.probe.table import Figure
from gtacli.config.probe import KnnProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome


def knn(config: KnnProbeConfig, call: Call) -> int:
    """Accuracy of DINO's weighted k-NN classifier.

    The k training images nearest to a test image, by cosine of their features, vote for their
    classes, each with weight exp(cosine / temperature); nothing is learnt. Exact, all k and
    temperatures of one search. Images are seen as DINO's evaluation sees them: resized to 256/224
    of the input, the centre cut out.

    Features are kept (--cache) and serve every probe. With --compare each model is tested against
    --model on the same images (McNemar's test). Images that cannot be read are named, the rest is
    done, and the exit status is 1.
    """

    def measure(bench: Bench, model: LoadedModel) -> Outcome:
        from gtacli.probing.classifiers.knn import knn

        return knn(bench, model, config.k, config.temperature, config.main_k)

    return run(config, call, measure, _figures)


def _figures(result: dict[str, Any]) -> list[Figure]:
    tests, main = result.get("compared", {}), result["k"]
    shares = [
        Figure(f"k {k}", share, result["knn_interval"][k], tests.get(f"knn@{k}"))
        for k, share in result["knn"].items()
    ]
    top5 = Figure(f"top 5, k {main}", result["top5"], result["top5_interval"], tests.get("top5"))
    return [*shares, top5]
