"""The report's images with what every network sees in them, and what the runs answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from gtacli.config.common import ImageSize
from gtacli.config.report import ReportConfig
from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.inputs import InputImage
from gtacli.data.unlabeled import has_labels
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError
from gtacli.images.packed import Packed
from gtacli.models.loading import LoadedModel, load_model
from gtacli.report.examining import Exam, Examiner, Notes, Progress
from gtacli.report.looking import Look, look, see, transform_of
from gtacli.report.packing import BASE64, Plan, pack, plan
from gtacli.report.runs import Run
from gtacli.report.testing import Tester, confusion, worst_mistakes
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)

FEW = 60
"""Images up to which each is shown at LARGE pixels, else at SMALL."""
LARGE, SMALL = 256, 160
QUALITY = 82


@dataclass(frozen=True)
class Column:
    """A network beside others.

    Attributes:
        label: its name on the page.
        run: number of its run; None: a source.
        view: number of the part of the images that it sees.
        grid: (gh, gw) of its maps.
        layers: absolute numbers of the blocks whose maps are kept.
        heads: how many it has.
    """

    label: str
    run: int | None
    view: int
    grid: tuple[int, int]
    layers: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class Shown:
    """An image on the page.

    Attributes:
        name: its key in the data set, or its path.
        label: its class, where that is known.
        mistake: whether it is shown for what the runs take it for.
        pictures: JPEG of every view.
        maps: of every column, see `packing`.
        answers: of every column (class, probability), None of one that gives none.
    """

    name: str
    label: str | None
    mistake: bool
    pictures: list[bytes]
    maps: list[bytes]
    answers: list[tuple[str, float] | None]


@dataclass
class Gallery:
    """All that a report shows of images.

    Attributes:
        confusions: of a run's number, the class names and `testing.confusion`.
        plan: what was kept of the maps; None: there are none.
        notes: what is missing.
        failed: images that cannot be read, and why.
    """

    columns: list[Column] = field(default_factory=list)
    images: list[Shown] = field(default_factory=list)
    confusions: dict[int, tuple[tuple[str, ...], list[list[int]]]] = field(default_factory=dict)
    plan: Plan | None = None
    notes: Notes = field(default_factory=Notes)
    failed: dict[str, str] = field(default_factory=dict)


class _Image(NamedTuple):
    name: str
    source: Path | Packed
    label: str | None
    mistake: bool = False


class _Seen(NamedTuple):
    """A network's look at all images."""

    label: str
    run: int | None
    view: int
    classes: tuple[str, ...]
    look: Look


def make_gallery(
    config: ReportConfig,
    runs: Sequence[Run],
    labels: Sequence[str],
    order: Sequence[int],
    named: Sequence[InputImage],
    room: float,
    compute: Compute,
    progress: Progress,
) -> Gallery:
    """Load the runs' networks; ask them about their test images, and look at some.

    Args:
        labels: a short name of each run.
        order: numbers of the runs, as their columns are to stand.
        named: images that were asked for; none: test images are chosen.
        room: bytes of the page that photographs and maps may take.
    """
    gallery = Gallery()
    examiner = Examiner(Tester(compute, config.batch_size, config.workers), gallery.notes, progress)
    exams: dict[int, Exam] = {}
    for number, run in enumerate(runs):
        exam = examiner.examine(run, labels[number])
        if exam is not None:
            exams[number] = exam
            counts = confusion(exam.records, exam.answers)
            gallery.confusions[number] = exam.dataset.classes, counts
    images = _chosen(config, runs, examiner, [*exams.values()], named)
    sight = _Sight(images, gallery.failed)
    columns = [*_sources(runs), *_own(runs, labels, order)]
    seen: list[_Seen] = []
    with progress("attention maps", len(columns)) as advance:
        for label, own, load in columns if sight.images else ():
            try:
                seen.append(_look(sight, label, own, load(), compute, room / len(columns)))
            except GtaError as error:
                gallery.notes.add(f"{label}: no attention maps ({error})")
            advance()
    if seen:
        _put(gallery, seen, sight, room)
    return gallery


# Which images.


def _chosen(
    config: ReportConfig,
    runs: Sequence[Run],
    examiner: Examiner,
    exams: Sequence[Exam],
    named: Sequence[InputImage],
) -> list[_Image]:
    images = [_Image(image.path, image.source, None) for image in named]
    if not named:
        found = next(((exam.dataset, exam.records) for exam in exams), None)
        found = found or _any_images(runs, examiner)
        if found is not None:
            dataset, records = found
            images += [
                _of_set(r, dataset) for r in _thinned(_telling(dataset, records), config.max_images)
            ]
    if exams and config.mistakes:
        dataset, records, _ = exams[0]
        rivals = [exam.answers for exam in exams if exam.dataset is dataset]
        worst = worst_mistakes(records, rivals, config.mistakes)
        images += [_of_set(record, dataset, mistake=True) for record in worst]
    return images


def _any_images(
    runs: Sequence[Run], examiner: Examiner
) -> tuple[ImageDataset, tuple[Record, ...]] | None:
    """Of runs without a test."""
    for run in runs:
        found = examiner.dataset(run)
        if found is not None:
            return found[0], found[0]["test"] or found[0]["val"] or found[0]["train"]
    return None


def _telling(dataset: ImageDataset, records: Sequence[Record]) -> Sequence[Record]:
    """The first of each class; without labels all."""
    if not has_labels(dataset):
        return records
    first = {record.label: record for record in reversed(records)}
    return [first[label] for label in sorted(first)]


def _of_set(record: Record, dataset: ImageDataset, mistake: bool = False) -> _Image:
    return _Image(record.key, record.path, dataset.classes[record.label] or None, mistake)


def _thinned(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count`, evenly from all."""
    if len(records) <= count:
        return [*records]
    return [records[i * len(records) // count] for i in range(count)]


# Which networks.

_Networks = Iterator[tuple[str, int | None, Callable[[], LoadedModel]]]


def _sources(runs: Sequence[Run]) -> _Networks:
    """What the runs started from, each once. Random weights are nothing to look at."""
    found: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        config, untrained = run.config, run.command == "pretrain"
        if untrained and not config.get("init"):
            continue
        if config.get("source") or config.get("model"):
            size = config.get("source_size") or config.get("image_size")
            itself = config.get("source") in (None, config.get("model"))
            init = config.get("init") if itself else None
            spec = config.get("source") or config["model"]
            found.setdefault((spec, str(size), init, untrained, config.get("patch_size")), run)
    for (spec, size, init, untrained, patch_size), run in found.items():
        label = "source" if len(found) == 1 else f"source {Path(init or spec).name}"
        pixels = None if size == "None" else _size(size)
        partial_weights = bool(run.config.get("partial_weights"))
        how = {"init": init, "untrained": untrained, "patch_size": patch_size}
        yield label, None, partial(load_model, spec, 0, pixels, partial_weights, **how)


def _size(text: str) -> tuple[int, int]:
    size: tuple[int, int] = TypeAdapter(ImageSize).validate_python(text)
    return size


def _own(runs: Sequence[Run], labels: Sequence[str], order: Sequence[int]) -> _Networks:
    for number in order:
        yield labels[number], number, partial(load_model, str(runs[number].path))


# What they see.


class _Sight:
    """The images as networks see them; several networks mostly see the same."""

    def __init__(self, images: Sequence[_Image], failed: dict[str, str]) -> None:
        self.images = [*images]
        self.failed = failed
        self.views: list[tuple[float, float]] = []
        self.pictures: list[list[bytes]] = []
        self._last: tuple[EvalTransform, list[Tensor]] | None = None

    def through(self, view: EvalTransform) -> list[Tensor]:
        """Every image; one that cannot be read at first is left out. Raises ImageError later."""
        if self._last is None:
            seen = [self._try(image, view) for image in self.images]
            self.images = [i for i, s in zip(self.images, seen, strict=True) if s is not None]
            self._last = view, [s for s in seen if s is not None]
        elif self._last[0] != view:
            self._last = view, [see(image.source, view) for image in self.images]
        return self._last[1]

    def _try(self, image: _Image, view: EvalTransform) -> Tensor | None:
        try:
            return see(image.source, view)
        except ImageError as error:
            log.warning("%s", error)
            self.failed[image.name] = str(error)
            return None

    def number(self, view: EvalTransform) -> int:
        """Of the part of the images that is seen, whatever its size in pixels."""
        h, w = view.image_size
        key = (round(h / w, 2), view.crop_pct)
        if key not in self.views:
            self.views.append(key)
            side = LARGE if len(self.images) <= FEW else SMALL
            self.pictures.append([_jpeg(seen, side) for seen in self.through(view)])
        return self.views.index(key)


def _jpeg(view_3hw: Tensor, side: int) -> bytes:
    picture: Image.Image = to_pil_image(view_3hw)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _look(
    sight: _Sight,
    label: str,
    number: int | None,
    model: LoadedModel,
    compute: Compute,
    share: float,
) -> _Seen:
    """share: bytes of the page that all of the network's maps may take."""
    view = transform_of(model)
    images = sight.through(view)
    if not images:
        raise GtaError("none of the images can be read")
    classes = model.classes if number is not None else ()
    seen = look(model, images, compute, len(classes), max(0.0, share / BASE64))
    return _Seen(label, number, sight.number(view), classes, seen)


def _put(gallery: Gallery, seen: Sequence[_Seen], sight: _Sight, size: float) -> None:
    photographs = sum(len(jpeg) for view in sight.pictures for jpeg in view)
    looks = [one.look for one in seen]
    gallery.plan = kept = plan(looks, len(sight.images), size - 4 / 3 * photographs)
    for one in seen:
        _, depth, heads, *_ = one.look.maps.shape
        layers = kept.layers(depth)
        column = Column(one.label, one.run, one.view, one.look.grid, layers, heads)
        gallery.columns.append(column)
    for i, image in enumerate(sight.images):
        gallery.images.append(
            Shown(
                image.name,
                image.label,
                image.mistake,
                [view[i] for view in sight.pictures],
                [pack(look, i, kept) for look in looks],
                [_answer(one, i) for one in seen],
            )
        )


def _answer(seen: _Seen, image: int) -> tuple[str, float] | None:
    if not seen.look.answers:
        return None
    number, probability = seen.look.answers[image]
    return seen.classes[number], probability
