"""The sheet of a study: the same images by the models of its rows, side by side.

Attention maps are drawn as by `gta attention-map`, objects as by the study's own `gta segment`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.config.base import did_you_mean
from gtacli.config.segment import SegmentConfig
from gtacli.data.inputs import InputImage, iter_dataset_images
from gtacli.data.unlabeled import load_images
from gtacli.discovery.build import make_backend
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.export import export_maps
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.inference.attention_maps.make import make_method
from gtacli.inference.attention_maps.sheet import MapSheet
from gtacli.inference.objects import Finder, find_objects
from gtacli.inference.segment.compare import draw, row
from gtacli.inference.segment.masks import MaskOptions, MaskWriter
from gtacli.inference.stream import Failure
from gtacli.measures.segmentation import SegmentationTotals
from gtacli.models.loading import load_model
from gtacli.rendering.files import write_picture
from gtacli.runtime.devices import Compute
from gtacli.study.folder import STUDY_FILE, State
from gtacli.study.plan import Cell, config_for
from gtacli.study.results import StudySheet
from gtacli.study.states import StudyProgress

log = logging.getLogger(__name__)
SOURCE = "source"


@dataclass(frozen=True)
class SheetModel:
    """A column of the sheet.

    Attributes:
        name: title.
        spec: the model.
        cell: whose run it is; of the source that of the first row.
    """

    name: str
    spec: str
    cell: Cell


def models_at(
    progress: StudyProgress, at: Mapping[str, str], methods: Sequence[str] = ()
) -> list[SheetModel]:
    """Return the models of all rows at one place of the grid: the first that is finished.

    The model that a fine-tuning has started from comes first.

    Args:
        at: values of keys of the grid as text, which limit the place.
        methods: names of rows; none: all of them.

    Raises UsageError for an unknown key or row, and where no cell is finished.
    """
    _check(at, list(progress.plan.file.grid), "key of the grid", "at")
    _check(methods, progress.plan.methods, "row", "method")
    found = [
        cell
        for cell in progress.plan.cells.values()
        if not cell.tunes
        and cell.parent is None
        and progress.states[cell.name] is State.FINISHED
        and (not methods or cell.method in methods)
        and all(str(cell.keys[key]) == value for key, value in at.items())
    ]
    if not found:
        where = ", ".join(f"{key}={value}" for key, value in at.items())
        raise UsageError(f"no cell{' at ' if where else ''}{where} is finished", option="at")
    here = [cell for cell in found if cell.keys == found[0].keys]
    trained = [m for cell in here if (m := _trained(progress, cell))]
    start = here[0].settings.get("source", here[0].settings.get("model"))
    first = []
    if here[0].command == "finetune" and isinstance(start, str):
        first = [SheetModel(SOURCE, start, here[0])]
    return [*first, *trained]


def _check(names: Iterable[str], known: Sequence[str], noun: str, option: str) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or ";"
            text = f"'{name}' is no {noun}{hint} known: {', '.join(known)}"
            raise UsageError(text, option=option)


def _trained(progress: StudyProgress, cell: Cell) -> SheetModel | None:
    if cell.command in ("finetune", "pretrain"):
        return SheetModel(cell.method, str(progress.folder.run(cell.name)), cell)
    spec = cell.settings.get("model", cell.settings.get("teacher"))
    return SheetModel(cell.method, spec, cell) if isinstance(spec, str) else None


def sample_images(spec: str, count: int) -> list[InputImage]:
    """Return test images of a dataset, evenly spread over it, else of all its images."""
    dataset = load_images(spec)
    images = list(iter_dataset_images(dataset, "test")) or list(iter_dataset_images(dataset))
    return [images[i * len(images) // count] for i in range(min(count, len(images)))]


def draw_attention(
    models: Sequence[SheetModel], images: Iterable[InputImage], compute: Compute, file: Path
) -> StudySheet:
    """Draw the attention of the CLS token in the last block, maximum over the heads.

    Images keep their aspect ratio, at about as many patches as the cells were trained with.

    Raises GtaError for a model that cannot be loaded, or has no such attention.
    """
    size = models[-1].cell.settings.get("image_size")
    config = AttentionMapConfig.model_validate({} if size is None else {"image_size": size})
    extractors = []
    for each in models:
        model = load_model(each.spec, image_size=config.image_size, any_size=not config.stretched)
        method = make_method(config, model)
        extractors.append(MapExtractor(each.name, model, method, config.kind, config.stretched))
    given = list(images)
    files = MapFiles(None)
    sheet = MapSheet(file, extractors, files, len(given))
    for result in export_maps(extractors, given, compute, files, len(given), threads=0):
        if isinstance(result, Failure):
            log.warning("%s: %s", result.image, result.error)
        else:
            sheet.add(result)
    sheet.save()
    return _result(file, models, given)


def draw_objects(
    progress: StudyProgress,
    models: Sequence[SheetModel],
    images: Sequence[InputImage],
    compute: Compute,
    file: Path,
) -> StudySheet:
    """Draw the objects that the study's `gta segment` finds, and the ground truth if any."""
    config = _segment_config(progress, models[-1].cell)
    size = config.image_size
    finders: list[Finder] = []
    for each in models:
        model = load_model(each.spec, image_size=size)
        size = size or model.image_size
        backend = make_backend(config.backend, config.options, model)
        finders.append(Finder(model, backend, compute, each.name))
    options = MaskOptions(None, config.refine, truth=config.ground_truth, void=config.void)
    writers = [MaskWriter(options, finder.size, finder.name) for finder in finders]
    totals = [SegmentationTotals() for _ in finders]
    rows = []
    for image in images:
        [found] = find_objects(finders, [finders[0].read(image)])
        truth, pixels = writers[0].read(found)
        results = [
            writer.finish(found, grids, truth, pixels)
            for writer, grids in zip(writers, found.grids, strict=True)
        ]
        for total, (result, _) in zip(totals, results, strict=True):
            if result.score is not None:
                total.add(result.score)
        rows.append(row(found, truth, results))
    # The scores below the titles are those of these images, not of the dataset.
    summaries = [{} if len(images) > 1 else total.means() for total in totals]
    write_picture(draw(rows, [finder.name for finder in finders], summaries), file)
    return _result(file, models, images)


def _segment_config(progress: StudyProgress, cell: Cell) -> SegmentConfig:
    """Return the config of the `gta segment` that follows a cell, or that the cell is."""
    followers = (c for c in progress.plan.followers(cell.name) if c.command == "segment")
    own = cell if cell.command == "segment" else next(followers, None)
    if own is None:
        raise UsageError("no cell of the study runs gta segment, which finds objects", option="of")
    settings = progress.settings(own) or own.settings
    return cast(SegmentConfig, config_for(own, settings, STUDY_FILE))


def images_of(
    progress: StudyProgress, models: Sequence[SheetModel], objects: bool, count: int
) -> list[InputImage]:
    """Return images of the dataset that the cells, or their `gta segment`, have measured.

    Raises UsageError if they name no dataset.
    """
    cell = models[-1].cell
    spec: Any = _segment_config(progress, cell).data if objects else cell.settings.get("data")
    if not isinstance(spec, str):
        raise UsageError("the cells name no dataset: give images", option="images")
    return sample_images(spec, count)


def _result(file: Path, models: Sequence[SheetModel], images: Iterable[InputImage]) -> StudySheet:
    return {
        "sheet": str(file),
        "models": {each.name: each.spec for each in models},
        "images": [image.path for image in images],
    }
