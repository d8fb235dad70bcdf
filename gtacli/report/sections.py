"""Sections of the report's page that are made elsewhere: a table of text with a figure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TableSection:
    """A table, with notes and a figure below it.

    Attributes:
        title: its heading.
        head: heads of the columns.
        rows: as many texts each.
        notes: lines below the table.
        figure: SVG, which the page shows as an image, so that nothing in it can run; None: none.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    figure: bytes | None = None

    @property
    def figure_url(self) -> str | None:
        """The figure as a data URL."""
        if self.figure is None:
            return None
        return "data:image/svg+xml;base64," + base64.b64encode(self.figure).decode("ascii")
