"""The options of `[regularizer.gram]`."""

from __future__ import annotations

from gtacli.config.option import option
from gtacli.config.parts import RegularizerOptions


class GramOptions(RegularizerOptions):
    """The options of Gram anchoring."""

    lam: float = option(2.0, "strength of the penalty", ge=0, allow_inf_nan=False)
    layer: int = option(
        -1, "block whose patch tokens are compared, from the end if negative", metavar="N"
    )
