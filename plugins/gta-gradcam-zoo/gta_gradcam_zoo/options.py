"""The options of the kind `cam`."""

from __future__ import annotations

from typing import Literal

from gtacli.config.option import option
from gtacli.config.parts import ClassMapOptions

Method = Literal[
    "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam",
    "eigengradcam", "seg-eigencam", "kpcacam", "fem", "scorecam", "ablationcam",
]  # fmt: skip


class ClassActivationOptions(ClassMapOptions):
    """The options of class activation maps."""

    method: Method = option(
        "elementwise", "method of the grad-cam package; scorecam and ablationcam are slow"
    )
    layer: int = option(-1, "block whose normalized input is weighted, from the end if negative")
