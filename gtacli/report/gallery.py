"""The report's images with the attention maps and predictions of every model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from gtacli.config.report import ReportConfig
from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.inputs import InputImage
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError
from gtacli.report.attention import ModelMaps, compute_maps, eval_transform, load_view
from gtacli.report.evaluation import Notes, ReportProgress, RunEvaluator, RunPredictions
from gtacli.report.map_encoding import MapSelection, encode_maps, select_maps
from gtacli.report.predictions import Confusions, Predictor, count_confusions
from gtacli.report.previews import BASE64
from gtacli.report.run_folders import ReportRun
from gtacli.report.selection import SelectedImage, SelectedModel, select_images, select_models
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)

FEW_IMAGES = 60
"""Up to this number images are shown at LARGE pixels, else at SMALL."""
LARGE, SMALL = 256, 160
QUALITY = 82


@dataclass(frozen=True)
class ModelColumn:
    """A column of maps on the page.

    Attributes:
        label: name of the model on the page.
        run: index of its run; None: a source.
        view: index of the crop of the images that the model uses.
        grid: (gh, gw) of its maps.
        blocks: indices of the blocks whose maps the page contains.
        heads: number of heads.
    """

    label: str
    run: int | None
    view: int
    grid: tuple[int, int]
    blocks: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class GalleryImage:
    """An image on the page.

    Attributes:
        name: its key in the dataset, or its path.
        label: its class, if known.
        mistake: whether it is shown as one of the worst mistakes.
        pictures: one JPEG file per view.
        maps: encoded maps per column, see `map_encoding`.
        predictions: (class, probability) per column; None for a model without a classifier.
    """

    name: str
    label: str | None
    mistake: bool
    pictures: list[bytes]
    maps: list[bytes]
    predictions: list[tuple[str, float] | None]


@dataclass
class Gallery:
    """All images, maps and predictions of a report.

    Attributes:
        confusions: by the run's index.
        selection: the maps that the page contains; None: there are none.
        notes: missing content.
        failed: errors by the name of an image that cannot be read.
    """

    columns: list[ModelColumn] = field(default_factory=list)
    images: list[GalleryImage] = field(default_factory=list)
    confusions: dict[int, Confusions] = field(default_factory=dict)
    selection: MapSelection | None = None
    notes: Notes = field(default_factory=Notes)
    failed: dict[str, str] = field(default_factory=dict)


class _ModelResult(NamedTuple):
    """A model's maps and predictions on all images, and the index of its view."""

    model: SelectedModel
    view: int
    classes: tuple[str, ...]
    maps: ModelMaps

    def prediction(self, image: int) -> tuple[str, float] | None:
        if not self.maps.predictions:
            return None
        number, probability = self.maps.predictions[image]
        return self.classes[number], probability


def make_gallery(
    config: ReportConfig,
    runs: Sequence[ReportRun],
    labels: Sequence[str],
    order: Sequence[int],
    named: Sequence[InputImage],
    room: float,
    compute: Compute,
    progress: ReportProgress,
) -> Gallery:
    """Run the runs' models on their test or held-out images and compute maps on a selection.

    Args:
        labels: short names of the runs.
        order: indices of the runs in the order of their columns.
        named: images that the user named; empty: such images are selected.
        room: bytes of the page for pictures and maps.
    """
    gallery = Gallery()
    own = config.precision == "auto"
    predictor = Predictor(compute, config.batch_size, config.workers, own)
    evaluator = RunEvaluator(predictor, gallery.notes, progress)
    evaluated: list[RunPredictions] = []
    for number, run in enumerate(runs):
        result = evaluator.evaluate(run, labels[number])
        if result is not None:
            evaluated.append(result)
            counts = count_confusions(result.records, result.predictions)
            gallery.confusions[number] = Confusions(result.dataset.classes, counts, result.images)
    images = select_images(config, runs, evaluator, evaluated, named)
    views = _ImageViews(images, gallery.failed)
    models = select_models(runs, labels, order)
    results: list[_ModelResult] = []
    with progress("attention maps", len(models)) as advance:
        for model in models if views.images else ():
            try:
                results.append(_run_model(model, views, compute, room / len(models)))
            except GtaError as error:
                gallery.notes.add(f"{model.label}: no attention maps ({error})")
            advance()
    if results:
        _fill(gallery, results, views, room)
    return gallery


class _ImageViews:
    """The images after the models' transforms; consecutive models mostly share one."""

    def __init__(self, images: Sequence[SelectedImage], failed: dict[str, str]) -> None:
        self.images = [*images]
        self.failed = failed
        self.crops: list[tuple[float, float]] = []
        self.pictures: list[list[bytes]] = []
        self._last: tuple[EvalTransform, list[Tensor]] | None = None

    def transform(self, transform: EvalTransform) -> list[Tensor]:
        """Return every image; drop those that cannot be read at the first call.

        Raises ImageError at later calls.
        """
        if self._last is None:
            views = [self._try_load(image, transform) for image in self.images]
            self.images = [i for i, v in zip(self.images, views, strict=True) if v is not None]
            self._last = transform, [view for view in views if view is not None]
        elif self._last[0] != transform:
            self._last = transform, [load_view(image.source, transform) for image in self.images]
        return self._last[1]

    def _try_load(self, image: SelectedImage, transform: EvalTransform) -> Tensor | None:
        try:
            return load_view(image.source, transform)
        except ImageError as error:
            log.warning("%s", error)
            self.failed[image.name] = str(error)
            return None

    def crop_index(self, transform: EvalTransform) -> int:
        """Return the index of the crop of a transform, whatever its size in pixels."""
        h, w = transform.image_size
        crop = (round(h / w, 2), transform.crop_pct)
        if crop not in self.crops:
            self.crops.append(crop)
            side = LARGE if len(self.images) <= FEW_IMAGES else SMALL
            self.pictures.append([_jpeg(view, side) for view in self.transform(transform)])
        return self.crops.index(crop)


def _jpeg(view_3hw: Tensor, side: int) -> bytes:
    picture: Image.Image = to_pil_image(view_3hw)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _run_model(
    selected: SelectedModel, views: _ImageViews, compute: Compute, room: float
) -> _ModelResult:
    """Compute a model's maps, in at most `room` bytes of the page, and its predictions."""
    model = selected.load()
    transform = eval_transform(model)
    images = views.transform(transform)
    if not images:
        raise GtaError("none of the images can be read")
    classes = model.classes if selected.run is not None else ()
    maps = compute_maps(model, images, compute, len(classes), max(0.0, room / BASE64))
    return _ModelResult(selected, views.crop_index(transform), classes, maps)


def _fill(
    gallery: Gallery, results: Sequence[_ModelResult], views: _ImageViews, room: float
) -> None:
    """Add columns and images with the maps that fit into `room` bytes beside the pictures."""
    pictures = sum(len(jpeg) for view in views.pictures for jpeg in view)
    maps = [result.maps for result in results]
    gallery.selection = selection = select_maps(maps, len(views.images), room - BASE64 * pictures)
    for result in results:
        (label, run, _), view = result.model, result.view
        _, depth, heads, *_ = result.maps.maps.shape
        column = ModelColumn(label, run, view, result.maps.grid, selection.blocks(depth), heads)
        gallery.columns.append(column)
    for i, image in enumerate(views.images):
        gallery.images.append(
            GalleryImage(
                image.name,
                image.label,
                image.mistake,
                [pictures[i] for pictures in views.pictures],
                [encode_maps(model, i, selection) for model in maps],
                [result.prediction(i) for result in results],
            )
        )
