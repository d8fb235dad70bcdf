"""The options of `[regularizer.cotuning]`."""

from __future__ import annotations

from gtacli.config.option import option
from gtacli.config.parts import RegularizerOptions


class CoTuningOptions(RegularizerOptions):
    """The options of Co-Tuning."""

    lam: float = option(2.3, "strength of the penalty", ge=0, allow_inf_nan=False)
    temperature: float = option(
        1.0, "divides the source's logits before the softmax of its predictions", gt=0
    )
