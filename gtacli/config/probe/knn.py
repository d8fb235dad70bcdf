"""The config of `gta probe knn`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.probe.common import Counts, FeatureProbeConfig, PositiveFloats


class KnnProbeConfig(FeatureProbeConfig):
    """Options of `gta probe knn`."""

    k: Counts = Field(
        default=(10, 20, 100, 200),
        description="numbers of neighbors that vote",
        json_schema_extra={"metavar": "LIST", "default": "10,20,100,200"},
    )
    temperature: PositiveFloats = Field(
        default=(0.07,),
        description="temperatures of the votes' weights, exp(cosine / temperature)",
        json_schema_extra={"metavar": "LIST", "default": "0.07"},
    )

    @property
    def main_k(self) -> int:
        """The k of the main result: 20, which usually is the best, or the first one."""
        return 20 if 20 in self.k else self.k[0]
