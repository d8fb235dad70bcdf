"""The `hold_out` option: which training images a run validates on instead of training on them.

Where labels are few, a held-out image costs more than it tells: of five images a class holding out
one costs about two points of accuracy, while fifty images in all can hardly separate two epochs.
So small classes give none by default, and the last epoch of the schedule is saved.
"""

from __future__ import annotations

import logging

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import ImageDataset, Record
from gtacli.data.sampling import FIFTH, MIN_TO_HOLD_OUT, Split, hold_out, make_split
from gtacli.errors import UsageError

log = logging.getLogger(__name__)

MIN_FOR_AUTO = 10
"""Images of a class from which on `hold_out=auto` holds out a fifth of it."""


def with_held_out(config: FinetuneConfig) -> FinetuneConfig:
    """Return the config with what `hold_out` leaves to other options.

    A fifth is held out where an option decides by it, nothing where `folds` measure.
    """
    if config.hold_out == "auto" and config.folds is not None:
        return config.model_copy(update={"hold_out": "none"})
    if config.hold_out == "auto" and _needs_held_out(config):
        return config.model_copy(update={"hold_out": FIFTH})
    return config


def split_data(config: FinetuneConfig, dataset: ImageDataset) -> Split:
    """Sample the training images of a run and hold out those that it validates on.

    Raises UsageError where an option that decides by held-out images is left without any.
    """
    config, needs = with_held_out(config), _needs_held_out(config)
    if needs and config.hold_out == "none" and not dataset["val"]:
        text = f"none: `{needs}` decides by held-out images; leave it at auto, or set a percentage"
        raise UsageError(text, option="hold_out")
    percent, min_images = FIFTH, MIN_TO_HOLD_OUT
    if config.hold_out == "auto":
        min_images = MIN_FOR_AUTO
    else:
        percent = 0.0 if config.hold_out == "none" else config.hold_out
    split = make_split(
        dataset,
        rate=config.sampling_rate,
        shots=config.shots,
        seed=config.seed,
        percent=percent,
        min_images=min_images,
    )
    if config.patience is not None and not split.val:
        text = "needs validation images, but none are held out (no class has 3 or more)"
        raise UsageError(text, option="patience")
    return split


def log_held_out(config: FinetuneConfig, split: Split) -> None:
    """Log what is held out, where that is not what the options say by themselves."""
    if split.info["validation"] == "data":
        if config.hold_out != "auto" and config.resume is None:
            log.warning("`hold_out` has no effect: the dataset has its own validation split")
        if config.refit:
            log.warning("`refit` has no effect: the dataset has its own validation split")
        return
    held, images = len(split.val), len(split.train) + len(split.val)
    if not held:
        log.info("no image is held out: all %d are trained on, the last epoch is saved", images)
        if config.refit:
            log.warning("`refit` has no effect: no image is held out")
    elif (needs := _needs_held_out(config)) and config.hold_out == "auto":
        log.info("`%s` decides by held-out images: %d of %d are held out", needs, held, images)


def observed(split: Split) -> tuple[Record, ...]:
    """Return the images that drift and attention are measured on.

    They are the validation images. Without any they are the fifth of the training images that
    would be held out: a distance needs no unseen images.
    """
    return split.val or hold_out(split.train, split.info["seed"])[1]


def _needs_held_out(config: FinetuneConfig) -> str:
    """Return the option that decides by held-out images, or an empty text."""
    if config.lam == "auto":
        return "lam=auto"
    return "" if config.patience is None else "patience"
