"""The picture of `gta probe attention`: every block and head of every model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from gtacli.rendering.panels import PanelColumn, draw_panels


def health_picture(names: Sequence[str], results: Sequence[dict[str, Any]]) -> Image.Image:
    """A row of panels a model, a column a measure, under one scale of colours.

    Args:
        names: of the models.
        results: what `AttentionProbe.results` gives.
    """
    first = results[0]
    measures, corner = [], "lines: blocks, columns: heads"
    if first["area"] is not None:
        note = f"% of what is on patches; the area: {100 * first['area']:.1f}"
        tables = [_table(r, "inside", 100) for r in results]
        measures.append(PanelColumn("Inside the object", note, tables, "{:.0f}"))
    note = f"nats, of the full row; at most {math.log(first['tokens']):.2f}"
    measures.append(PanelColumn("Entropy", note, [_table(r, "entropy") for r in results], low=0))
    if any(layer["drift"] for result in results for layer in result["layers"]):
        corner += f"; drift and KL are from {names[0]}"
        note = "of the logits, squared"
        tables = [_table(r, "drift") for r in results]
        measures.append(PanelColumn("Drift", note, tables, "{:.0f}", 0))
        note = "nats, of the patches"
        tables = [_table(r, "kl") for r in results]
        measures.append(PanelColumn("KL", note, tables, "{:.2f}", 0))
    lines = [[str(layer["layer"]) for layer in result["layers"]] for result in results]
    return draw_panels(names, measures, lines, corner)


def _table(result: dict[str, Any], measure: str, times: float = 1) -> list[list[float]] | None:
    rows = [layer[measure] for layer in result["layers"]]
    return None if None in rows else [[times * value for value in row] for row in rows]
