"""The config of `gta probe knn`."""

from __future__ import annotations

from gtacli.config.option import option
from gtacli.config.probe.common import Counts, ExtractingProbeConfig, PositiveFloats


class KnnProbeConfig(ExtractingProbeConfig):
    """Options of `gta probe knn`."""

    k: Counts = option(
        (10, 20, 100, 200), "numbers of neighbors that vote", metavar="LIST", shown="10,20,100,200"
    )
    temperature: PositiveFloats = option(
        (0.07,),
        "temperatures of the votes' weights, exp(cosine / temperature)",
        metavar="LIST",
        shown="0.07",
    )

    @property
    def main_k(self) -> int:
        """The k of the main result: 20, which usually is the best, or the first one."""
        return 20 if 20 in self.k else self.k[0]
