"""The config of `gta probe transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gtacli.config.option import option
from gtacli.config.probe.common import FeatureProbeConfig


class TransferProbeConfig(FeatureProbeConfig):
    """Options of `gta probe transfer`."""

    data: list[str] = option(  # type: ignore[assignment]
        list,
        "labeled datasets: all words up to the next option",
        metavar="SPEC...",
        multiple=True,
        variadic=True,
    )
    k: int = option(20, "k-NN: number of neighbors that vote", ge=1)
    linear: bool = option(True, "train linear classifiers too")

    SHARED: ClassVar[frozenset[str]] = frozenset(FeatureProbeConfig.model_fields)

    def for_dataset(self, data: str, out: Path, cache: Path) -> FeatureProbeConfig:
        """Return the config for one of the datasets."""
        shared = {name: getattr(self, name) for name in self.model_fields_set & self.SHARED}
        return FeatureProbeConfig(**{**shared, "data": data, "out": out, "cache": cache})
