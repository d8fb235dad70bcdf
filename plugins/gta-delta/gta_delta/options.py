"""The options of `[regularizer.delta]`."""

from __future__ import annotations

from pydantic import Field, field_validator

from gtacli.config.common import FilePath
from gtacli.config.parts import GTAOptions, Layers, RegularizerOptions


class DeltaOptions(RegularizerOptions):
    lam: float = Field(default=0.01, ge=0, description="alpha")
    layers: Layers = Field(default="all", description="blocks whose outputs are held")
    channel_weights: FilePath | None = Field(
        default=None,
        description="a .safetensors of one tensor (C) a block, named by the block's number",
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _parse_layers(cls, value: object) -> object:
        """-1,-2 and a list, as the built-in regularisers read them."""
        return GTAOptions(layers=value).layers  # type: ignore[arg-type]
