"""The inputs that a run began with, compared with those that it is resumed with."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from gtacli.data.base import ImageDataset
from gtacli.data.contents import content_fingerprint, is_sampled, time_fingerprint
from gtacli.data.streams.stream import ImageStream
from gtacli.errors import GtaError
from gtacli.runtime.atomic import to_json
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.resuming import MAY_CHANGE
from gtacli.training.state import read_origin

log = logging.getLogger(__name__)


def check_origin(
    state: Mapping[str, Any], run: RunFolder, config: Mapping[str, Any], split: Mapping[str, Any]
) -> None:
    """Compare what a state was trained with and on to the record of the run.

    Args:
        state: whose `origin` an earlier version did not save.
        config: of run.json.
        split: of this run.

    Raises GtaError if they differ.
    """
    trained = read_origin(state)
    if trained is None:
        return
    for key, value in trained.config.items():
        if key in config and config[key] != value and key not in MAY_CHANGE:
            text = f"{run.path / 'run.json'} was changed: `{key}` was {value} in training, not"
            raise GtaError(f"{text} {config[key]}; restore the file", option="resume")
    if trained.split != digest_of(split):
        text = f"`data` no longer gives the split that {run.path} was trained on"
        raise GtaError(text, option="resume")


def check_split(run: RunFolder, split: Mapping[str, Any]) -> None:
    """Raise GtaError unless split.json is the split of this run; write it if it is missing."""
    if not run.has("split.json"):  # the run ended just before it
        run.write_json("split.json", split)
        return
    before, now = run.read_json("split.json"), json.loads(to_json(split))
    changed = [name for name in before.keys() & now.keys() if before[name] != now[name]]
    if changed:
        text = f"{run.path / 'split.json'} is not the split of this run (`{min(changed)}`)"
        raise GtaError(f"{text}; restore the file, or delete it", option="resume")


def describe_images(dataset: ImageDataset | ImageStream) -> dict[str, str]:
    """Return fingerprints of the images; none of a stream, whose shards are known by their names.

    The ones in work at an interruption are compared where it goes on, see `streamed_images`.
    """
    if isinstance(dataset, ImageStream):
        return {}
    return {"content": content_fingerprint(dataset), "times": time_fingerprint(dataset)}


def fingerprint_in(record: Mapping[str, Any], option: str) -> str | None:
    """Return the fingerprint of an input in a record; None if it has none."""
    part = record.get(option)
    return part.get("fingerprint") if isinstance(part, dict) else None


def check_images(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    dataset: ImageDataset | ImageStream,
    config: Any,
) -> None:
    """Raise GtaError if images have other bytes than when the run began, though equal sizes.

    Where not all bytes are compared, a change of times is named.

    Args:
        before, now: the dataset in the record of the run, and as it is.
    """
    if before.get("content") is None:  # of an earlier version
        return
    if before["content"] != now["content"]:
        text = f"`data` {config.data} has changed since the run began: images with other content"
        raise GtaError(text, option="resume")
    sampled = isinstance(dataset, ImageDataset) and is_sampled(dataset)
    if sampled and before.get("times") != now["times"]:
        log.warning(
            "images of `data` %s have other times than when the run began; they have the same "
            "sizes, and the content of those that were compared is the same",
            config.data,
        )


def digest_of(split: Mapping[str, Any]) -> str:
    """Return what names the content of split.json in a state."""
    return hashlib.sha256(to_json(split, sort_keys=True).encode()).hexdigest()
