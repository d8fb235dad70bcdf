"""The config of `gta probe transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

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
    features: Literal["cls", "mean", "cls+mean"] | None = option(  # type: ignore[assignment]
        None,
        "the CLS token, the mean of the patches, both side by side; unset, the linear classifiers "
        "choose among them as `gta probe linear` does",
        shown="k-NN: cls",
    )
    k: int = option(20, "k-NN: number of neighbors that vote", ge=1)
    linear: bool = option(True, "train linear classifiers too")

    SHARED: ClassVar[frozenset[str]] = frozenset(FeatureProbeConfig.model_fields)

    @property
    def chooses_features(self) -> bool:
        """True where the linear classifiers choose among features."""
        return self.features is None and self.layer == "last"

    def for_dataset(self, data: str, out: Path, cache: Path) -> FeatureProbeConfig:
        """Return the config for one of the datasets."""
        given = {name: getattr(self, name) for name in self.model_fields_set & self.SHARED}
        shared = {name: value for name, value in given.items() if value is not None}
        return FeatureProbeConfig(**{**shared, "data": data, "out": out, "cache": cache})
