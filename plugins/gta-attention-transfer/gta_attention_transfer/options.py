"""The options of `[regularizer.attention-transfer]`."""

from __future__ import annotations

from typing import Literal

from gtacli.config.option import option
from gtacli.config.parts import Layers, RegularizerOptions


class AttentionTransferOptions(RegularizerOptions):
    """The options of attention distillation."""

    lam: float = option(3.0, "strength of the penalty", ge=0, allow_inf_nan=False)
    layers: Literal["auto"] | Layers = option(
        "auto",
        "blocks whose attention is compared: all, last, or a list such as 0,1,2; auto: all but "
        "the last quarter, as published",
    )
