"""The options of `[regularizer.delta]`."""

from __future__ import annotations

from pydantic import Field, field_validator

from gtacli.config.common import FilePath
from gtacli.config.parts import GTAOptions, Layers, RegularizerOptions


class DeltaOptions(RegularizerOptions):
    """The options of DELTA."""

    lam: float = Field(default=0.01, ge=0, description="strength (alpha)")
    layers: Layers = Field(default="all", description="blocks whose outputs are compared")
    channel_weights: FilePath | None = Field(
        default=None,
        description="a .safetensors file with one tensor (C) per block, named by its number",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _parse_layers(cls, value: object) -> object:
        """Accept "-1,-2" and lists, as the built-in regularizers do."""
        return GTAOptions(layers=value).layers  # type: ignore[arg-type]
