"""The config of `gta probe transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from gtacli.config.probe.common import FeatureProbeConfig


class TransferProbeConfig(FeatureProbeConfig):
    """Options of `gta probe transfer`."""

    data: list[str] = Field(  # type: ignore[assignment]
        default_factory=list,
        description="labeled datasets: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    k: int = Field(default=20, ge=1, description="k-NN: number of neighbors that vote")
    linear: bool = Field(default=True, description="train linear classifiers too")

    SHARED: ClassVar[frozenset[str]] = frozenset(FeatureProbeConfig.model_fields)

    def for_dataset(self, data: str, out: Path, cache: Path) -> FeatureProbeConfig:
        """Return the config for one of the datasets."""
        shared = {name: getattr(self, name) for name in self.model_fields_set & self.SHARED}
        return FeatureProbeConfig(**{**shared, "data": data, "out": out, "cache": cache})
