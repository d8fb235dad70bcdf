"""Images on which an exported file is compared with its model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gtacli.data.inputs import iter_paths
from gtacli.data.spec import load_dataset
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError
from gtacli.images.decode import decode
from gtacli.images.packed import PackedImage
from gtacli.runtime.fetching import recorded_specs
from gtacli.runtime.paths import user_path
from gtacli.runtime.run_files import RECORD_FILE
from gtacli.scenes.trials import draw_trial
from gtacli.trained.runs import read_run, test_images

log = logging.getLogger(__name__)

COUNT = 4
_SCENE = 320  # pixels


class CheckImages(NamedTuple):
    """Images, upright RGB.

    Attributes:
        images: one or more.
        source: where they are from, in words.
    """

    images: list[Image.Image]
    source: str


def check_images(spec: str, named: Sequence[str]) -> CheckImages:
    """Return the named images, else images of a run's dataset, else drawn scenes.

    Args:
        spec: of the model; nothing that its record names is downloaded.

    Raises GtaError for a named image that cannot be read.
    """
    if named:
        paths = iter_paths(named, sys.stdin.buffer)
        return CheckImages([decode(Path(path)) for path in paths], "the given images")
    try:
        found = [decode(path) for path in islice(_of_run(spec), COUNT)]
        if found:
            return CheckImages(found, "images of the run's dataset")
    except GtaError as error:
        log.info("the dataset of %s cannot be read here (%s)", spec, error)
    scenes = (draw_trial(index, _SCENE)[0] for index in range(COUNT))
    return CheckImages([Image.fromarray(pixels) for pixels in scenes], "drawn scenes")


def _of_run(spec: str) -> Iterator[Path | PackedImage]:
    """Yield images of a run's dataset, test images if it has some, of different classes first."""
    if not os.path.isfile(user_path(spec) / RECORD_FILE):
        return
    run = read_run(user_path(spec))
    if run.config.data is None:
        return
    with recorded_specs(f"the record of {spec}", allow_fetch=False):
        if run.command == "pretrain":
            dataset = load_images(run.config.data)
        else:
            dataset = load_dataset(run.config.data, run.config.multi_label)
    records = test_images(run, dataset) or tuple(record for _, record in dataset.records())
    first = {label: record for record in reversed(records) for label in record.every_label}
    yield from (record.source for record in dict.fromkeys((*first.values(), *records)))
