"""Revisited Oxford and Paris (Radenović et al., arXiv 1803.11285): retrieval of places.

Queries are regions of images. The authors' file (`gnd_roxford5k.pkl`) lists the images that show
the same place, as easy, hard or junk. Easy: the easy images are relevant, the hard ones ignored;
medium: both are relevant; hard: the hard ones are relevant, the easy ones ignored. Ignored images
are removed from the ranking. AP is the area under the precision-recall curve by trapezoids, mP@k
the fraction of relevant images among the k first (or up to the last relevant one, if that comes
before).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from gtacli.data.base import Record
from gtacli.errors import GtaError, UsageError
from gtacli.images.decode import decode
from gtacli.images.find import find_images, read_file_state
from gtacli.images.packed import PackedImage
from gtacli.images.sizes import check_box
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, Splits
from gtacli.probing.retrieval.by_class import sort_gallery
from gtacli.runtime.regular import read_regular
from gtacli.runtime.strict_json import parse_json

LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""By level: the lists of relevant images, and those of ignored ones."""
AT = (1, 5, 10)
"""Values of k of mP@k."""
LISTS = ("easy", "hard", "junk")
_SAFE_CALLS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
    ("builtins", "bytes"),
    *((f"numpy.{core}.{module}", name)
      for core in ("core", "_core")
      for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"),
                           ("numeric", "_frombuffer"))),
}  # fmt: skip


@dataclass(frozen=True)
class RevisitedTruth:
    """The content of the authors' file.

    Attributes:
        gallery, queries: names of the images, without suffix.
        boxes: by query, the region (x0, y0, x1, y1) in pixels, or None: the entire image.
        lists: by query, the indices of gallery images that are `easy`, `hard` and `junk`.
    """

    gallery: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[tuple[float, ...] | None, ...]
    lists: tuple[Mapping[str, NDArray[np.int64]], ...]


def read_ground_truth(file: Path) -> RevisitedTruth:
    """Read the authors' file, a pickle, or the same as JSON.

    A pickle may only call the constructors of lists, strings, numbers and arrays. Raises UsageError
    for any other file.
    """
    try:
        content = read_regular(file)
        is_json = content.lstrip()[:1] == b"{"
        return _parse(parse_json(content) if is_json else _SafeUnpickler(BytesIO(content)).load())
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {file}", option="ground_truth") from error
    except Exception as error:  # a broken pickle raises almost anything
        reason = _reason(error)
        raise UsageError(
            f"{file} is no ground truth of revisited Oxford or Paris ({reason})",
            option="ground_truth",
        ) from error


# The unpickler in Python, since that in C allocates as much as a number of the pickle says.
class _SafeUnpickler(pickle._Unpickler):
    """Loads containers, strings, numbers and NumPy arrays, and refuses all other calls."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # for files of Python 2

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE_CALLS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        call = super().find_class(module, name)
        return _LIMITED.get(name, lambda real: real)(call)


def _bytes_of_text(real: Any) -> Any:
    """Return `bytes` without its form that allocates as much as a number says."""

    def limited(*args: Any) -> bytes:
        if args and not isinstance(args[0], str | list | tuple | bytes):
            raise pickle.UnpicklingError("it would make bytes of a number")
        return bytes(real(*args))

    return limited


def _empty_array(real: Any) -> Any:
    """Return NumPy's `_reconstruct` for the empty arrays that pickles start from."""

    def limited(kind: Any, shape: Any, code: Any) -> Any:
        if kind is not np.ndarray or shape != (0,):
            raise pickle.UnpicklingError("it would make an array without values")
        return real(kind, shape, code)

    return limited


_LIMITED = {"bytes": _bytes_of_text, "_reconstruct": _empty_array}


def _reason(error: Exception) -> str:
    """Return what is wrong with a file; messages of Python alone would not say it."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, ValueError | OSError | pickle.UnpicklingError):
        return " ".join(str(error).split()) or "it is damaged"
    return "it is damaged"


def _parse(content: Any) -> RevisitedTruth:
    gallery, queries, gnd = (list(content[key]) for key in ("imlist", "qimlist", "gnd"))
    if len(queries) != len(gnd):
        raise ValueError(f"{len(queries)} queries and {len(gnd)} answers")
    lists = []
    for answer in gnd:
        indices = {key: np.asarray(answer[key], np.int64).ravel() for key in LISTS}
        if any(n.size and not 0 <= n.min() <= n.max() < len(gallery) for n in indices.values()):
            raise ValueError("an answer is no image of the list")
        lists.append(indices)
    boxes = tuple(tuple(map(float, one["bbx"])) if "bbx" in one else None for one in gnd)
    if any(box is not None and len(box) != 4 for box in boxes):
        raise ValueError("a box does not have four numbers")
    for box in boxes:
        if box is not None and not (-inf < box[0] < box[2] < inf and -inf < box[1] < box[3] < inf):
            raise ValueError(f"the box {[*box]} (x0, y0, x1, y1) has no area")
    return RevisitedTruth(tuple(map(str, gallery)), tuple(map(str, queries)), boxes, tuple(lists))


@dataclass(frozen=True)
class ImageCrop(PackedImage):
    """A region of an image file."""

    path: Path
    box: tuple[float, ...]

    def open(self) -> BinaryIO:
        file = BytesIO()
        image = decode(self.path)
        x0, y0, x1, y1 = self.box
        box = max(x0, 0.0), max(y0, 0.0), min(x1, image.width), min(y1, image.height)
        check_box(box, (image.height, image.width))
        image.crop(box).save(file, "PNG")
        file.seek(0)
        return file

    def stamp(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else -1

    def state(self) -> str:
        return f"{read_file_state(self.path)}\0{self.box}"

    def __str__(self) -> str:
        return f"{self.path} at {','.join(f'{side:g}' for side in self.box)}"


def make_revisited_splits(truth: RevisitedTruth, root: Path) -> Splits:
    """Return the gallery as training split and the queries as test split.

    Args:
        root: folder of the images, which may lie in folders below it.

    Raises UsageError if it holds none of them.
    """
    if not root.is_dir():
        raise UsageError(
            f"no folder {root}; with `ground_truth` it is the folder of the images", option="data"
        )
    files = {file.stem: file for file in reversed(find_images(root))}
    if not files.keys() & set(truth.gallery):
        raise UsageError(f"none of the ground truth's images is in {root}", option="data")

    def path(name: str) -> Path:
        return files.get(name, root / f"{name}.jpg")  # later reported as missing

    gallery = tuple(Record(name, 0, path(name)) for name in truth.gallery)
    queries = tuple(
        Record(f"query/{name}", 0, path(name) if box is None else ImageCrop(path(name), box))
        for name, box in zip(truth.queries, truth.boxes, strict=True)
    )
    return Splits(("place",), gallery, (), queries, "test")


def revisited(data: ProbeData, model: LoadedModel, truth: RevisitedTruth) -> ProbeResult:
    """Compute mAP and mP@k at each level; for the metrics see `results.RevisitedResult`.

    An unreadable image of the gallery is never found; an unreadable query is skipped.
    """
    gallery, queries = data.extract_all(model, (data.splits.train, data.splits.test))
    index = {name: n for n, name in enumerate(truth.gallery)}
    places = np.array([index[key] for key in gallery.keys])
    query_index = {f"query/{name}": n for n, name in enumerate(truth.queries)}
    device = data.cache.compute.device
    order = torch.cat(
        [o.cpu() for o in sort_gallery(queries.values.to(device), gallery.values.to(device))]
    )
    ranked = [
        (places[row], truth.lists[query_index[key]])
        for row, key in zip(order.numpy(), queries.keys, strict=True)
    ]
    metrics: dict[str, Any] = {"n_gallery": len(gallery), "n_queries": len(queries)}
    per_image: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        scores = [score_query(row, lists, level) for row, lists in ranked]
        counted = [score for score in scores if score is not None]
        if not counted:
            metrics |= {f"map_{level}": None, f"mp_{level}": None}
            continue
        precision = np.array([area for area, _ in counted])
        per_image[f"map_{level}"] = precision
        metrics[f"map_{level}"] = float(precision.mean())
        metrics[f"map_{level}_interval"] = [*mean_interval(precision)]
        at_k = np.mean([values for _, values in counted], axis=0)
        metrics[f"mp_{level}"] = {str(k): float(s) for k, s in zip(AT, at_k, strict=True)}
    if not per_image:
        raise GtaError("no query has an answer in the ground truth")
    metrics["map"] = metrics["map_medium"]
    return ProbeResult(metrics, 0, len(queries), queries.keys, per_image)


def score_query(
    ranked: NDArray[np.int64], lists: Mapping[str, NDArray[np.int64]], level: str
) -> tuple[float, list[float]] | None:
    """Compute AP and the precision at each of `AT` of one query; None without a relevant image.

    Args:
        ranked: indices of gallery images, nearest first.
        lists: see `GroundTruth`.
    """
    relevant, ignored = (np.concatenate([lists[name] for name in names]) for names in LEVELS[level])
    if not len(relevant):
        return None
    counted = ranked[~np.isin(ranked, ignored)]
    ranks = np.flatnonzero(np.isin(counted, relevant))  # from 0
    hits = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    area = float(((before + (hits + 1) / (ranks + 1)) / 2).sum() / len(relevant))
    if not len(ranks):
        return area, [0.0] * len(AT)
    reach = [min(int(ranks[-1]) + 1, k) for k in AT]
    return area, [float((ranks < k).sum() / k) for k in reach]
