"""The options of `[optimizers.ftp]` and `[optimizers.spd]`."""

from __future__ import annotations

from gtacli.config.option import option
from gtacli.config.parts import AdamWOptions


class FTPOptions(AdamWOptions):
    """The options of fast trainable projection."""

    k: float = option(
        1.0, "factor of the gradients that shrink the radius, 1 for the strongest", ge=0, le=1
    )


class SPDOptions(AdamWOptions):
    """The options of selective projection decay."""

    strength: float = option(
        1.0, "fraction of the growth of the distance that is taken back", ge=0, allow_inf_nan=False
    )
