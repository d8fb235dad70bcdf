"""`gta segment`: the object in each image, a mask and a line an image."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.segment import SegmentConfig
from gtacli.errors import GtaError, UsageError

if TYPE_CHECKING:
    from gtacli.data.inputs import InputImage
    from gtacli.inference.objects import Finder
    from gtacli.runtime.devices import Compute

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
    With --compare every model looks at every image: a table, and sheet.png with the first ones.
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
    from gtacli.inference.segment.stream import Output
    from gtacli.inference.segment.stream import segment as run
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.interrupts import StopSignal
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    compute = choose_compute(config.device, config.precision)
    named = _images(images or [], config.data, null)
    folder = RunFolder(config.out or default_out("segment"), call.dry_run)
    folder.check_free(config.overwrite, resumable=False)
    finders = _finders(config, compute)
    record = {
        "command": "segment",
        "config": config.model_dump(mode="json"),
        "options": {f.name: f.backend.options.model_dump(mode="json") for f in finders},
        **environment(),
    }
    folder.write_json("run.json", record)
    if call.dry_run:
        named = islice(named, config.batch_size)
    output = Output(
        None if call.dry_run else folder.path,
        config.refine,
        config.overlay,
        config.ground_truth,
        config.void,
    )
    objects = config.options.get("objects", 1)
    status = 0
    summaries: list[dict[str, Any]] = []
    with StopSignal() as stop:
        many = (config.batch_size, config.workers, objects)
        for result in run(finders, named, output, *many, lambda: stop.requested):
            if "error" in result:
                status = 1
                log.warning("%s", result["error"])
            if "summary" in result:
                summaries.append(result["summary"])
            if call.json:
                console.emit(result)
            elif "sheet" in result:
                log.info("sheet: %s", result["sheet"])
            elif len(finders) == 1:
                _show(result)
    if stop.requested:
        status = 130
        log.warning("interrupted; these are the images so far")
    if any(summary["images"] for summary in summaries):
        whole = summaries[0] if len(finders) == 1 else {"models": summaries}
        folder.write_json("summary.json", whole)
    if not call.json:
        _table(summaries)
    return status


def _finders(config: SegmentConfig, compute: Compute) -> list[Finder]:
    """A finder a model, all of the first one's input size; every model is loaded first, so that
    what is wrong with the last is said before the first step."""
    from gtacli.discovery.build import make_backend
    from gtacli.inference.objects import Finder
    from gtacli.models import load_model
    from gtacli.models.names import short_names

    assert config.spec is not None
    specs = [config.spec, *config.compare]
    size = config.image_size
    finders: list[Finder] = []
    for spec, name in zip(specs, short_names(specs), strict=True):
        try:
            model = load_model(spec, image_size=size)
            model.model.to(compute.device)
            backend = make_backend(config.backend, config.options, model)
        except GtaError as error:
            raise type(error)(f"--compare {spec}: {error}" if finders else str(error)) from error
        size = size or model.image_size
        finders.append(Finder(model, backend, compute, name))
    return finders


def _images(given: list[str], data: str | None, null: bool) -> Iterator[InputImage]:
    """Those that are named, and those of a data set."""
    from gtacli.data.inputs import iter_inputs
    from gtacli.data.spec import load_dataset

    dataset = None if data is None else load_dataset(data)
    return iter_inputs(given, dataset, sys.stdin.buffer, null)


def _show(result: dict[str, Any]) -> None:
    """The line of one image."""
    if "error" in result or "summary" in result:
        return
    found = [each["box"] for each in result.get("objects", [result]) if each["box"] is not None]
    boxes = "; ".join(" ".join(map(str, box)) for box in found) or "nothing found"
    score = f"\tIoU {100 * result['iou']:.1f} %" if "iou" in result else ""
    console.say(f"{result['image']}\t{result['mask'] or ''}\t{boxes}{score}")


_COLUMNS = {
    "mean_iou": "mean IoU %",
    "jaccard": "Jaccard %",
    "corloc": "CorLoc %",
    "max_f_beta": "max F %",
    "accuracy": "accuracy %",
}


def _table(summaries: list[dict[str, Any]]) -> None:
    """A row a model, with the figures that there are."""
    present = [key for key in _COLUMNS if any(s.get(key) is not None for s in summaries)]
    plain = ["images", "failed"] if len(summaries) == 1 else []
    names = [summary.get("model") for summary in summaries]
    rows = [
        [
            *([name] if name else []),
            *(summary[key] for key in plain),
            *(_per_cent(summary.get(key)) for key in present),
            *([f"{summary['images_per_second']:.1f}"] if plain else []),
        ]
        for name, summary in zip(names, summaries, strict=True)
    ]
    head = ["model"] if names[0] else []
    rate = ["images/s"] if plain else []
    console.table([*head, *plain, *(_COLUMNS[key] for key in present), *rate], rows)


def _per_cent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"
