"""The config of `gta probe fewshot`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import read_words
from gtacli.config.option import option
from gtacli.config.probe.common import Counts, ExtractingProbeConfig


class FewshotProbeConfig(ExtractingProbeConfig):
    """Options of `gta probe fewshot`."""

    shots: Counts = option((1, 5, 10), "training images per class", metavar="LIST", shown="1,5,10")
    draws: int = option(20, "number of random draws of them", ge=1)
    classifier: Annotated[
        tuple[Literal["linear", "centroid", "knn"], ...],
        BeforeValidator(read_words),
        Field(min_length=1),
    ] = option(
        ("linear", "centroid", "knn"),
        "logistic regression, nearest class mean, nearest images",
        metavar="LIST",
        shown="linear,centroid,knn",
    )
    c: float = option(10.0, "linear: inverse strength of the penalty, as scikit-learn's", gt=0)
    k: int = option(20, "knn: number of neighbors that vote", ge=1)
    temperature: float = option(
        0.07, "knn: temperature of the votes' weights, exp(cosine / temperature)", gt=0
    )
