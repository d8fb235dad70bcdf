"""Revisited Oxford and Paris (Radenović et al., arXiv 1803.11285): retrieval of places.

Queries are parts of images; which images show the same place, and how hard that is to see, stands
in the authors' file (`gnd_roxford5k.pkl`). Easy: the easy images count as found, and the hard ones
do not count at all; medium: both count as found; hard: the hard ones, and the easy ones do not
count. What does not count is taken out of the ranking. AP is the area under the
precision-recall curve by trapezoids, mP@k the share of relevant images among the k first (or up to
the last relevant one, where that comes before).
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
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
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.evaluation import Bench, Outcome, Parts
from gtacli.probing.retrieval.classes import orders

LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""What counts as found, and what does not count."""
AT = (1, 5, 10)
_PLAIN = {
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
class GroundTruth:
    """Attributes:
    gallery, queries: names of the images, without suffix.
    boxes: of each query what is asked for: (x0, y0, x1, y1) in pixels, or None: all of it.
    lists: of each query the numbers of gallery images that are `easy`, `hard` and `junk`.
    """

    gallery: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[tuple[float, ...] | None, ...]
    lists: tuple[Mapping[str, NDArray[np.int64]], ...]


def read_ground_truth(file: Path) -> GroundTruth:
    """The authors' file: a pickle, or the same as JSON. Of a pickle nothing is called but what
    makes lists, texts, numbers and arrays. Raises UsageError for any other file."""
    try:
        data = file.read_bytes()
        read = json.loads(data) if data.lstrip()[:1] == b"{" else _Plain(BytesIO(data)).load()
        return _ground_truth(read)
    except FileNotFoundError as error:
        raise UsageError(f"--ground-truth: no such file: {file}") from error
    except Exception as error:  # a broken pickle raises almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"--ground-truth: {file} is no ground truth of revisited Oxford or Paris ({reason})"
        ) from error


class _Plain(pickle.Unpickler):
    """Reads containers, texts, numbers and numpy's arrays, and calls nothing else."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # as older Pythons wrote it

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def _ground_truth(read: Any) -> GroundTruth:
    gallery, queries, gnd = (list(read[key]) for key in ("imlist", "qimlist", "gnd"))
    if len(queries) != len(gnd):
        raise ValueError(f"{len(queries)} queries and {len(gnd)} answers")
    lists = []
    for of in gnd:
        numbers = {key: np.asarray(of[key], np.int64).ravel() for key in ("easy", "hard", "junk")}
        if any(n.size and not 0 <= n.min() <= n.max() < len(gallery) for n in numbers.values()):
            raise ValueError("an answer is no image of the list")
        lists.append(numbers)
    boxes = tuple(tuple(map(float, of["bbx"])) if "bbx" in of else None for of in gnd)
    if any(box is not None and len(box) != 4 for box in boxes):
        raise ValueError("a box is not of four numbers")
    return GroundTruth(tuple(map(str, gallery)), tuple(map(str, queries)), boxes, tuple(lists))


@dataclass(frozen=True)
class Cropped(PackedImage):
    """A part of an image file."""

    path: Path
    box: tuple[float, ...]

    def open(self) -> BinaryIO:
        file = BytesIO()
        x0, y0, x1, y1 = self.box
        decode(self.path).crop((x0, y0, x1, y1)).save(file, "PNG")
        file.seek(0)
        return file

    def stamp(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else -1

    def state(self) -> str:
        return f"{read_file_state(self.path)}\0{self.box}"

    def __str__(self) -> str:
        return f"{self.path} at {','.join(f'{side:g}' for side in self.box)}"


def revisited_parts(truth: GroundTruth, root: Path) -> Parts:
    """The gallery as training part, the queries as test part.

    Args:
        root: folder of the images, which may lie in folders below it.

    Raises UsageError where none of them is there.
    """
    if not root.is_dir():
        raise UsageError(f"--data: no folder {root}; with --ground-truth it holds the images")
    files = {file.stem: file for file in reversed(find_images(root))}
    if not files.keys() & set(truth.gallery):
        raise UsageError(f"--data: none of the ground truth's images is in {root}")

    def path(name: str) -> Path:
        return files.get(name, root / f"{name}.jpg")  # which is then named as missing

    gallery = tuple(Record(name, 0, path(name)) for name in truth.gallery)
    queries = tuple(
        Record(f"query/{name}", 0, path(name) if box is None else Cropped(path(name), box))
        for name, box in zip(truth.queries, truth.boxes, strict=True)
    )
    return Parts(("place",), gallery, (), queries, "test")


def revisited(bench: Bench, model: LoadedModel, truth: GroundTruth) -> Outcome:
    """Figures: `map_easy`, `map_medium`, `map_hard` and their intervals over the queries, `map`
    (medium), `mp_easy` ... ({k: share}), `n_gallery`, `n_queries`.

    An image of the gallery that cannot be read is never found; a query that cannot is left out.
    """
    gallery, queries = bench.see(model, bench.parts.train), bench.see(model, bench.parts.test)
    number = {name: n for n, name in enumerate(truth.gallery)}
    places = np.array([number[key] for key in gallery.keys])
    asked = {f"query/{name}": n for n, name in enumerate(truth.queries)}
    device = bench.cache.compute.device
    order = torch.cat(
        [o.cpu() for o in orders(queries.values.to(device), gallery.values.to(device))]
    )
    ranked = [
        (places[row], truth.lists[asked[key]])
        for row, key in zip(order.numpy(), queries.keys, strict=True)
    ]
    figures: dict[str, Any] = {"n_gallery": len(gallery), "n_queries": len(queries)}
    each: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        scores = [score(row, lists, level) for row, lists in ranked]
        kept = [one for one in scores if one is not None]
        if not kept:
            figures |= {f"map_{level}": None, f"mp_{level}": None}
            continue
        precision = np.array([ap for ap, _ in kept])
        each[f"map_{level}"] = precision
        figures[f"map_{level}"] = float(precision.mean())
        figures[f"map_{level}_interval"] = [*mean_interval(precision)]
        shares = np.mean([of for _, of in kept], axis=0)
        figures[f"mp_{level}"] = {str(k): float(s) for k, s in zip(AT, shares, strict=True)}
    if not each:
        raise GtaError("no query has an answer in the ground truth")
    figures["map"] = figures["map_medium"]
    return Outcome(figures, 0, len(queries), queries.keys, each)


def score(
    ranked: NDArray[np.int64], lists: Mapping[str, NDArray[np.int64]], level: str
) -> tuple[float, list[float]] | None:
    """AP and the precision at each of `AT` of one query; None where nothing is to be found.

    Args:
        ranked: numbers of gallery images, nearest first.
        lists: see `GroundTruth`.
    """
    found, ignored = (np.concatenate([lists[name] for name in names]) for names in LEVELS[level])
    if not len(found):
        return None
    counted = ranked[~np.isin(ranked, ignored)]
    ranks = np.flatnonzero(np.isin(counted, found))  # from 0
    hits = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    area = float(((before + (hits + 1) / (ranks + 1)) / 2).sum() / len(found))
    if not len(ranks):
        return area, [0.0] * len(AT)
    reach = [min(int(ranks[-1]) + 1, k) for k in AT]
    return area, [float((ranks < k).sum() / k) for k in reach]
