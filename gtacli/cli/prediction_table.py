"""The table of `gta predict`: CSV with a header and one row per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from gtacli.inference.stream import Failure
from gtacli.runtime.escapes import plain_cell

if TYPE_CHECKING:
    from gtacli.inference.results import Prediction


class PredictionTable:
    """A writer of predictions as lines of CSV.

    The columns are image, class, probability, class2, probability2, ...; with `unsure` a last one
    says "yes" of predictions that are not sure. The row of an image that cannot be read is empty
    but for its name. Control characters are escaped, so that every row is one line. A cell that a
    spreadsheet would take for a formula begins with an apostrophe. The header is written with the
    first row, or at the end.
    """

    def __init__(self, write: Callable[[str], object], classes: int, unsure: bool = False) -> None:
        """Begin a table.

        Args:
            write: called with each line, without its end.
            classes: number of classes in a row.
            unsure: whether there is a column for it.
        """
        self._write, self._classes, self._unsure = write, classes, unsure
        self._begun = False

    def add(self, result: Prediction | Failure) -> None:
        """Write the row of an image."""
        self.begin()
        if isinstance(result, Failure):
            self._row([result.image, *[""] * (2 * self._classes + self._unsure)])
        else:
            pairs = [(t["class"], f"{t['probability']:.6g}") for t in result["top"]]
            unsure = ["yes" if result.get("unsure") else ""] if self._unsure else []
            self._row([result["image"], *(cell for pair in pairs for cell in pair), *unsure])

    def begin(self) -> None:
        """Write the header if it has not been written."""
        if not self._begun:
            self._begun = True
            numbers = ["", *map(str, range(2, self._classes + 1))]
            self._row(
                [
                    "image",
                    *(f"{key}{n}" for n in numbers for key in ("class", "probability")),
                    *(["unsure"] if self._unsure else []),
                ]
            )

    def _row(self, cells: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(map(plain_cell, cells))
        self._write(line.getvalue())
