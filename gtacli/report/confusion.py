"""Files of a run's confusions: the matrix as PNG and CSV, the confused pairs, the classes.

confusion.png  the matrix
confusion.csv  images by true class (rows) and predicted class (columns)
pairs.csv      true and predicted class, images, fraction of the true class's; most images first
classes.csv    images, correct ones, accuracy (recall), precision and F1 of each class

Of a run with any number of labels per image classes.csv alone, with average precision and F1.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gtacli.rendering.confusion import draw_confusion
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.escapes import escape_controls, plain_cell

if TYPE_CHECKING:  # it needs torch
    from gtacli.report.predictions import Confusions


def write_confusions(
    folder: Path, confusions: Mapping[str, Confusions], apart: bool | None = None
) -> list[str]:
    """Write the files of each run.

    Args:
        confusions: by the run's name.
        apart: into a folder of its name; None: if there are several.

    Returns the files. Raises RunError about `confusion` for one that cannot be written.
    """
    apart = len(confusions) > 1 if apart is None else apart
    return [
        file
        for name, found in confusions.items()
        for file in _write(folder / name if apart else folder, name, found)
    ]


def write_classes(
    folder: Path, head: Sequence[str], tables: Mapping[str, Sequence[Sequence[object]]], apart: bool
) -> list[str]:
    """Write classes.csv of runs with any number of labels per image, which have no confusions.

    Args:
        head: of the columns.
        tables: rows by the run's name.
        apart: into a folder of its name.

    Returns the files. Raises RunError about `confusion` for one that cannot be written.
    """
    return [
        _table((folder / name if apart else folder) / "classes.csv", head, rows)
        for name, rows in tables.items()
    ]


def _write(folder: Path, name: str, found: Confusions) -> Iterator[str]:
    classes = found.classes
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for truth, predicted, images in found.counts:
        counts[truth, predicted] = images
    title = f"{escape_controls(name)}: {int(counts.sum()):,} {found.images}"
    drawn = draw_confusion([*map(escape_controls, classes)], counts, title)

    def save(draft: Path) -> None:
        drawn.save(draft, format="PNG")

    yield write_atomic(folder / "confusion.png", save, "confusion")
    matrix = ([name, *counts[i].tolist()] for i, name in enumerate(classes) if counts[i].any())
    yield _table(folder / "confusion.csv", ["true class", *classes], matrix)
    head = ["true class", "predicted class", "images", "fraction"]
    yield _table(folder / "pairs.csv", head, _pairs(classes, counts))
    head = ["class", "images", "correct", "accuracy", "precision", "f1"]
    yield _table(folder / "classes.csv", head, _classes(classes, counts))


def _pairs(classes: Sequence[str], counts: NDArray[np.int64]) -> Iterator[list[object]]:
    of_class = counts.sum(axis=1)
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts).tolist() if i != j]
    for images, i, j in sorted(wrong, key=lambda one: (-one[0], -one[0] / of_class[one[1]])):
        yield [classes[i], classes[j], images, images / of_class[i]]


def _classes(classes: Sequence[str], counts: NDArray[np.int64]) -> Iterator[list[object]]:
    """Yield the rows; what has no images has no accuracy, what is never predicted no precision."""
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    for i, name in enumerate(classes):
        n, hit, given = int(true[i]), int(hits[i]), int(predicted[i])
        scores = hit / n if n else "", hit / given if given else "", 2 * hit / (n + given or 1)
        yield [name, n, hit, *scores[:2], scores[2] if n else ""]


def _table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(plain_cell, head))
    for row in rows:
        cells = (f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row)
        writer.writerow(map(plain_cell, cells))
    content = text.getvalue()

    def save(draft: Path) -> None:
        draft.write_text(content, encoding="utf-8", errors="backslashreplace")

    return write_atomic(path, save, "confusion")
