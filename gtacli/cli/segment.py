"""`gta segment`: the object in each image, a mask and a line an image."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.segment import SegmentConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.inputs import Named

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, SegmentConfig, "segment")
def segment(
    config: SegmentConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Find the object in images, without labels: a black and white mask of each, and its box.

    Masks are at the image's own size, in the folders that the images lie in below what was given.
    Images that cannot be done are named, the rest is done, and the exit status is 1.
    """
    if config.spec is None:
        raise UsageError(
            "--model: name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, "
            "ARCH@FILE); the built-in demo's is too small for photographs"
        )
    if config.ground_truth is not None and not config.ground_truth.is_dir():
        raise UsageError(f"--ground-truth: no folder {config.ground_truth}")
    from gtacli.registry import DISCOVERY

    DISCOVERY.origin(config.backend)  # a wrong name is said before anything is loaded
    from gtacli.discovery.build import make_backend
    from gtacli.finding import Finder
    from gtacli.models import load_model
    from gtacli.segmentation import Output
    from gtacli.segmentation import segment as run
    from gtacli.training.devices import choose_compute
    from gtacli.training.runs import RunFolder, default_out, environment

    compute = choose_compute(config.device, config.precision)
    named = _images(images or [], config.data, null)
    folder = RunFolder(config.out or default_out("segment"), call.dry_run)
    folder.check_free(config.overwrite, resumable=False)
    model = load_model(config.spec, image_size=config.image_size)
    backend = make_backend(config.backend, config.options, model)
    record = {"command": "segment", "config": config.model_dump(mode="json"), **environment()}
    folder.write_json("run.json", record)
    if call.dry_run:
        named = islice(named, config.batch_size)
    output = Output(
        None if call.dry_run else folder.path,
        config.refine,
        config.overlay,
        config.ground_truth,
        config.void,
        model.image_size,
    )
    failed = False
    finder = Finder(model, backend, compute)
    for result in run(finder, named, output, config.batch_size, config.workers):
        if "error" in result:
            failed = True
            log.warning("%s", result["error"])
        if "summary" in result:
            folder.write_json("summary.json", result["summary"])
        if call.json:
            console.emit(result)
        else:
            _show(result)
    return 1 if failed else 0


def _images(given: list[str], data: str | None, null: bool) -> Iterator[Named]:
    """Those that are named, and those of a data set."""
    if not given and data is None:
        raise UsageError(
            "no images: give files, folders, patterns, - for paths on stdin, or --data SPEC"
        )
    from gtacli.data.inputs import dataset_images, named_images
    from gtacli.data.spec import load_dataset

    if data is None:
        return named_images(given, sys.stdin.buffer, null)
    of_set = dataset_images(load_dataset(data))
    return chain(named_images(given, sys.stdin.buffer, null), of_set) if given else of_set


def _show(result: dict[str, Any]) -> None:
    if "summary" in result:
        rows = [(key.replace("_", " "), value) for key, value in result["summary"].items()]
        console.table(("summary", ""), [row for row in rows if row[1] is not None])
    elif "error" not in result:
        box = "nothing found" if result["box"] is None else " ".join(map(str, result["box"]))
        score = f"\tIoU {100 * result['iou']:.1f} %" if "iou" in result else ""
        console.say(f"{result['image']}\t{result['mask'] or ''}\t{box}{score}")
