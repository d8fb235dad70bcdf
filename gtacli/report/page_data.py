"""The data of the page's scripts: curves, maps and predictions as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gtacli.report.groups import CommandRuns
from gtacli.report.metrics import ReportMetric, curve_metrics
from gtacli.report.previews import RunPreviews
from gtacli.report.run_folders import ReportRun

if TYPE_CHECKING:
    from gtacli.report.gallery import Gallery


def make_page_data(
    runs: Sequence[ReportRun],
    labels: Sequence[str],
    commands: Sequence[CommandRuns],
    previews: Sequence[RunPreviews],
    gallery: Gallery | None,
) -> dict[str, Any]:
    """Return the embedded data, without the bytes of pictures and maps."""
    groups = [(c, group) for c, command in enumerate(commands) for group in command.groups]
    group_of = {number: g for g, (_, group) in enumerate(groups) for number in group.runs}
    return {
        "commands": [command.title for command in commands],
        "groups": [
            {"label": group.label, "runs": group.runs, "command": c, "color": group.color}
            for c, group in groups
        ],
        "runs": [{"label": label, "group": group_of[i]} for i, label in enumerate(labels)],
        "curves": [
            {"command": c, **curve}
            for c, command in enumerate(commands)
            for curve in _curves(runs, command)
        ],
        "previews": [{"run": one.run, "epochs": one.epochs} for one in previews],
        "maps": _maps(gallery) if gallery and gallery.images else None,
        "predictions": _predictions(gallery) if gallery and gallery.confusions else None,
    }


def make_payloads(previews: Sequence[RunPreviews], gallery: Gallery | None) -> dict[str, bytes]:
    """Return the bytes of pictures and maps by the id of their element.

    `pI-V`: JPEG of image I in view V. `mI`: the maps of image I, one model after the other.
    `vR-N`: preview N of the Rth run that has previews.
    """
    payloads = {
        f"v{r}-{n}": jpeg for r, one in enumerate(previews) for n, jpeg in enumerate(one.pictures)
    }
    for i, image in enumerate(gallery.images if gallery else ()):
        payloads |= {f"p{i}-{v}": jpeg for v, jpeg in enumerate(image.pictures)}
        payloads[f"m{i}"] = b"".join(image.maps)
    return payloads


def _curves(runs: Sequence[ReportRun], command: CommandRuns) -> list[dict[str, Any]]:
    """Return the curves of a command's runs, epochs from 1; those of all other runs are None."""
    # A refit restarts on other images, so its rows belong to a different curve.
    rows: list[dict[int, dict[str, Any]]] = [{} for _ in runs]
    for number in command.runs:
        own = [row for row in runs[number].rows if "epoch" in row and "phase" not in row]
        rows[number] = {row["epoch"]: row for row in own}
    epochs = sorted({epoch for by_epoch in rows for epoch in by_epoch})
    return [
        {
            "title": metric.title,
            "percent": metric.percent,
            "sparse": metric.sparse,
            "epochs": [epoch + 1 for epoch in epochs],
            "runs": [_curve(by_epoch, epochs, metric) for by_epoch in rows],
        }
        for metric in curve_metrics(row for by_epoch in rows for row in by_epoch.values())
    ]


def _curve(
    rows: dict[int, dict[str, Any]], epochs: Sequence[int], metric: ReportMetric
) -> list[float | None] | None:
    values = [rows.get(epoch, {}).get(metric.key) for epoch in epochs]
    scale = 100 if metric.percent else 1
    curve = [scale * v if isinstance(v, int | float) else None for v in values]
    return None if all(value is None for value in curve) else curve


def _maps(gallery: Gallery) -> dict[str, Any]:
    from gtacli.rendering.colormap import palette
    from gtacli.rendering.heatmap import FAINT, STRONG

    selection = gallery.selection
    assert selection is not None
    return {
        "palette": palette("plasma").hex(),
        "faint": FAINT,
        "strong": STRONG,
        "pooled": selection.heads == "pooled",
        "step": selection.step,
        "rows": selection.rows,
        "deep": selection.deep,
        "columns": [asdict(column) for column in gallery.columns],
        "images": [
            {
                "name": image.name,
                "label": image.label,
                "mistake": image.mistake,
                "predictions": image.predictions,
            }
            for image in gallery.images
        ],
    }


def _predictions(gallery: Gallery) -> dict[str, Any]:
    class_lists = list(dict.fromkeys(one.classes for one in gallery.confusions.values()))
    return {
        "classes": class_lists,
        "runs": [
            {
                "run": run,
                "classes": class_lists.index(one.classes),
                "counts": one.counts,
                "images": one.images,
            }
            for run, one in gallery.confusions.items()
        ],
    }
