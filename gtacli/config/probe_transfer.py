"""The config of `gta probe transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from gtacli.config.probe import FeatureProbeConfig


class TransferProbeConfig(FeatureProbeConfig):
    """`gta probe transfer`."""

    data: list[str] = Field(  # type: ignore[assignment]
        default_factory=list,
        description="labelled data sets: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    k: int = Field(default=20, ge=1, description="k-NN: how many neighbours vote")
    linear: bool = Field(default=True, description="train linear classifiers too")

    ONE: ClassVar[frozenset[str]] = frozenset(FeatureProbeConfig.model_fields)

    def of(self, data: str, out: Path, cache: Path) -> FeatureProbeConfig:
        """The same on one of the data sets, all in one folder."""
        shared = {name: getattr(self, name) for name in self.model_fields_set & self.ONE}
        return FeatureProbeConfig(**{**shared, "data": data, "out": out, "cache": cache})
