"""The `epochs` option: the length of the schedule, given or by the number of training images.

Few images make few steps: 250 images in batches of 32 take 160 steps in 20 epochs, which is too few
for a new classifier. Many images need few epochs. So `epochs=auto` asks for a number of steps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gtacli.config.finetune import FinetuneConfig

log = logging.getLogger(__name__)

MIN_STEPS = 500
MIN_EPOCHS, MAX_EPOCHS = 10, 100


def auto_epochs(images: int, batch_size: int, accumulate: int = 1) -> int:
    """Return the epochs that take at least `MIN_STEPS` optimizer steps, within the limits.

    Args:
        images: number of training images, at least 1.
        batch_size: images of a batch, over all processes.
        accumulate: batches to an optimizer step.
    """
    batches = -(-images // batch_size)
    steps = -(-batches // accumulate)
    return min(max(-(-MIN_STEPS // steps), MIN_EPOCHS), MAX_EPOCHS)


def with_epochs(config: FinetuneConfig, images: int) -> FinetuneConfig:
    """Return the config with a number of epochs.

    Args:
        images: number of training images, with unreadable ones.
    """
    if config.epochs != "auto":
        return config
    epochs = auto_epochs(images, config.batch_size, config.accumulate)
    log.info("`epochs=auto`: %d epochs of %d images", epochs, images)
    return config.model_copy(update={"epochs": epochs})


def with_recorded_epochs(config: FinetuneConfig, record: Mapping[str, Any]) -> FinetuneConfig:
    """Return the config of a resumed run with the number of epochs that it began with.

    Args:
        record: content of run.json.
    """
    epochs = record.get("resolved", {}).get("epochs")
    if config.epochs != "auto" or not isinstance(epochs, int) or epochs < 1:
        return config
    return config.model_copy(update={"epochs": epochs})
