"""The options of `[regularizer.delta]`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import FilePath
from gtacli.config.parts import Layers, RegularizerOptions


class DeltaOptions(RegularizerOptions):
    """The options of DELTA."""

    lam: float = Field(default=0.01, ge=0, description="strength (alpha)")
    layers: Layers = Field(default="all", description="blocks whose outputs are compared")
    channel_weights: FilePath | None = Field(
        default=None,
        description="a .safetensors file with one tensor (C) per block, named by its number",
    )
