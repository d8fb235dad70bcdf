"""The config of `gta probe fewshot`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import read_words
from gtacli.config.probe.common import Counts, FeatureProbeConfig


class FewshotProbeConfig(FeatureProbeConfig):
    """Options of `gta probe fewshot`."""

    shots: Counts = Field(
        default=(1, 5, 10),
        description="training images per class",
        json_schema_extra={"metavar": "LIST", "default": "1,5,10"},
    )
    draws: int = Field(default=20, ge=1, description="number of random draws of them")
    classifier: Annotated[
        tuple[Literal["linear", "centroid", "knn"], ...],
        BeforeValidator(read_words),
        Field(min_length=1),
    ] = Field(
        default=("linear", "centroid", "knn"),
        description="logistic regression, nearest class mean, nearest images",
        json_schema_extra={"metavar": "LIST", "default": "linear,centroid,knn"},
    )
    c: float = Field(
        default=10.0, gt=0, description="linear: inverse strength of the penalty, as scikit-learn's"
    )
    k: int = Field(default=20, ge=1, description="knn: number of neighbors that vote")
    temperature: float = Field(
        default=0.07,
        gt=0,
        description="knn: temperature of the votes' weights, exp(cosine / temperature)",
    )
