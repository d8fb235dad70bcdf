"""The picture of `gta probe attention`: every block and head of every model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from gtacli.probing.results import AttentionProbeMetrics
from gtacli.rendering.panels import PanelColumn, draw_panels


def draw_attention_picture(
    names: Sequence[str], results: Sequence[AttentionProbeMetrics]
) -> Image.Image:
    """Draw a row of panels per model and a column per metric, with one color scale per column.

    Args:
        names: of the models.
        results: see `AttentionProbe.results`.
    """
    first = results[0]
    columns, corner = [], "lines: blocks, columns: heads"
    if first["area"] is not None:
        note = f"% of what is on patches; the area: {100 * first['area']:.1f}"
        tables = [_table(r, "inside", 100) for r in results]
        columns.append(PanelColumn("Inside the object", note, tables, "{:.0f}"))
    note = f"nats, of the full row; at most {math.log(first['tokens']):.2f}"
    columns.append(PanelColumn("Entropy", note, [_table(r, "entropy") for r in results], low=0))
    if any(layer["drift"] for result in results for layer in result["layers"]):
        corner += f"; drift and KL are from {names[0]}"
        note = "of the logits, squared"
        tables = [_table(r, "drift") for r in results]
        columns.append(PanelColumn("Drift", note, tables, "{:.0f}", 0))
        note = "nats, of the patches"
        tables = [_table(r, "kl") for r in results]
        columns.append(PanelColumn("KL", note, tables, "{:.2f}", 0))
    lines = [[str(layer["layer"]) for layer in result["layers"]] for result in results]
    return draw_panels(names, columns, lines, corner)


def _table(
    result: AttentionProbeMetrics, metric: str, times: float = 1
) -> list[list[float]] | None:
    rows = [layer[metric] for layer in result["layers"]]  # type: ignore[literal-required]
    return None if None in rows else [[times * value for value in row] for row in rows]
