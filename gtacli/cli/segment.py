"""`gta segment`: the objects in images, a mask and a line per image."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.default_model import TEXT, with_model
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Images, NullSeparated, config_command
from gtacli.config.segment import SegmentConfig
from gtacli.errors import UsageError, errors_about

if TYPE_CHECKING:
    from gtacli.data.inputs import InputImage
    from gtacli.inference.objects import Finder
    from gtacli.inference.results import SegmentSummary
    from gtacli.inference.segment.formats.base import AnnotationFormat
    from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)
app = new_app()
NO_MODEL = f"{TEXT}; the built-in demo's is too small for photographs"


@config_command(app, SegmentConfig, "segment")
def segment(
    config: SegmentConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Find the object in images, without labels: a black and white mask of each, and its box.

    Masks have the size of their image, and lie in the same subfolders as the images; of a single
    image, -o may name the file. An image that
    cannot be processed is reported, and the others are processed; the exit status is 1. With
    --compare every model processes every image: a table, and sheet.png with the first images.
    With --format the objects are written as annotations for other tools, in place of masks.
    """
    config = with_model(config, None if images else config.data, NO_MODEL)
    _check(config)
    from gtacli.cli.follow import follow
    from gtacli.inference.journal import ResultJournal, check_resumable
    from gtacli.inference.outputs import single_file
    from gtacli.inference.segment.masks import MaskOptions
    from gtacli.inference.segment.segmentation import segment as run
    from gtacli.runtime.run_folder import RunFolder, default_out

    compute = start_compute(config).frozen
    given = [*(images or []), *([] if config.data is None else ["-"])]  # a dataset is many images
    named = _images(images or [], config.data, null)
    one = config.format == "masks" and not config.compare
    file = single_file(config.out, given, ".png", config.overwrite) if one else None
    dry = call.dry_run or file is not None  # of one file there is no folder
    folder = RunFolder(config.out or default_out("segment", dry), dry)
    call.own(folder)
    if not config.resume and file is None:
        folder.check_free(config.overwrite, resumable=not config.compare)
    finders = _finders(config, compute)
    record = _record(config, finders)
    if config.resume:
        check_resumable(folder, record)
    folder.write_json("run.json", record)
    if call.dry_run:
        named = islice(named, config.batch_size)
    annotations = None if dry else _annotations(config, folder.path)
    options = MaskOptions(
        None if dry else folder.path,
        config.refine,
        config.overlay,
        config.ground_truth,
        config.void,
        None if call.dry_run else file,
        config.min_confidence,
        annotations,
    )
    size, workers, objects = config.batch_size, config.workers, config.options.get("objects", 1)
    summaries: list[SegmentSummary] = []

    def show(line: Mapping[str, Any]) -> None:
        if "summary" in line:
            summaries.append(line["summary"])
        if call.json:
            console.emit(line)
        elif "sheet" in line:
            log.info("sheet: %s", line["sheet"])
        elif "image" in line and len(finders) == 1:
            console.say(_text(line))

    opened: ResultJournal[Any] = ResultJournal(options.folder, config.resume)
    with opened as journal:
        ending = follow(
            lambda stop: run(finders, named, options, size, workers, objects, stop, journal),
            show,
            call.json,
        )
        if annotations is not None:
            annotations.finish(journal.records)
    if any(summary["images"] for summary in summaries):
        whole = summaries[0] if len(finders) == 1 else {"models": summaries}
        folder.write_json("summary.json", whole)
    if not call.json:
        _table(summaries)
    return ending.status


def _check(config: SegmentConfig) -> None:
    """Report wrong options before anything is loaded."""
    if config.resume and config.out is None:
        raise UsageError("name the folder of the interrupted run as `out`", option="resume")
    if config.resume and config.compare:
        raise UsageError("not with `compare`, which draws a sheet of all models", option="resume")
    if config.format != "masks" and config.compare:
        raise UsageError("not with `compare`, which draws the masks of all models", option="format")
    if config.format != "masks" and config.out is not None and config.out.suffix == ".json":
        text = f"{config.out} is a folder in this format; give it another name"
        raise UsageError(text, option="out")
    if config.ground_truth is not None:
        from gtacli.data.truth import check_truth

        check_truth(config.ground_truth, "ground_truth")
    from gtacli.registry import DISCOVERY

    DISCOVERY.origin(config.backend)


def _annotations(config: SegmentConfig, folder: Path) -> AnnotationFormat | None:
    """Return the format of the annotations; None: masks are written."""
    from gtacli.inference.segment.formats.coco import Coco
    from gtacli.inference.segment.formats.label_studio import LabelStudio
    from gtacli.inference.segment.formats.voc import Voc
    from gtacli.inference.segment.formats.yolo import Yolo

    match config.format:
        case "coco":
            return Coco(folder, config.category, config.outline)
        case "voc":
            return Voc(folder, config.category)
        case "yolo":
            return Yolo(folder, config.category)
        case "label-studio":
            return LabelStudio(folder, config.category, config.outline, config.url_prefix)
    return None


def _record(config: SegmentConfig, finders: list[Finder]) -> dict[str, Any]:
    """Return the content of run.json."""
    from gtacli.runtime.run_folder import environment

    return {
        "command": "segment",
        "config": config.model_dump(mode="json"),
        "models": {f.name: f.describe() for f in finders},
        "options": {f.name: f.backend.options.model_dump(mode="json") for f in finders},
        **environment(finders[0].compute.precision),
    }


def _finders(config: SegmentConfig, compute: Compute) -> list[Finder]:
    """Load the models, all at the first one's input size, before any image is processed."""
    from gtacli.discovery.build import make_backend
    from gtacli.inference.objects import Finder
    from gtacli.models import load_model
    from gtacli.models.names import short_names
    from gtacli.models.register_search import with_registers

    assert config.spec is not None
    specs = [config.spec, *config.compare]
    size = config.image_size
    finders: list[Finder] = []
    for spec, name in zip(specs, short_names(specs), strict=True):
        compared = f"compare={spec}"
        with errors_about(compared, model=compared) if finders else nullcontext():
            model = load_model(spec, image_size=size)
            model.model.to(compute.device)
            model = with_registers(model, config.registers, compute.device)
            backend = make_backend(config.backend, config.options, model)
        size = size or model.image_size
        finders.append(Finder(model, backend, compute, name))
    return finders


def _images(given: list[str], data: str | None, null: bool) -> Iterator[InputImage]:
    """List the named images, and after them those of a dataset."""
    from gtacli.data.inputs import iter_inputs
    from gtacli.data.unlabeled import load_images

    dataset = None if data is None else load_images(data, every_split=True)
    return iter_inputs(given, dataset, sys.stdin.buffer, null)


def _text(result: Mapping[str, Any]) -> str:
    """Format the line of one image."""
    found = [each["box"] for each in result.get("objects", [result]) if each["box"] is not None]
    boxes = "; ".join(" ".join(map(str, box)) for box in found) or "nothing found"
    score = f"\tIoU {100 * result['iou']:.1f} %" if "iou" in result else ""
    file = result["mask"] or next(iter(result.get("files", ())), "")
    return f"{result['image']}\t{file}\t{boxes}{score}"


_COLUMNS = {
    "mean_iou": "mean IoU %",
    "jaccard": "Jaccard %",
    "corloc": "CorLoc %",
    "max_f_beta": "max F %",
    "accuracy": "accuracy %",
}


def _table(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print a row per model, with the metrics that were computed."""
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
