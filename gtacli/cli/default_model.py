"""The model of a command that names none: a dataset's own, where it has one."""

from __future__ import annotations

import logging
from typing import TypeVar

from gtacli.config.common import CommandConfig
from gtacli.errors import UsageError

ConfigT = TypeVar("ConfigT", bound=CommandConfig)
log = logging.getLogger(__name__)

OWN = {"demo": "demo"}
"""Models that belong to datasets, by the dataset's spec."""
TEXT = "name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, ARCH@FILE)"


def with_model(
    config: ConfigT, data: str | None, text: str = TEXT, *, option: str = "model"
) -> ConfigT:
    """Return the config with a model: the named one, else that of the dataset `data`.

    Args:
        text, option: the error where neither exists, raised as UsageError.
    """
    if any(getattr(config, key, None) is not None for key in ("model", "teacher")):
        return config
    model = None if data is None else OWN.get(data)
    if model is None:
        raise UsageError(text, option=option)
    log.info("no `model`: using the built-in model of %s", data)
    return config.model_copy(update={"model": model})
