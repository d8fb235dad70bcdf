"""What the page's scripts read: curves, maps, answers, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gtacli.report.figures import Figure, curves_of
from gtacli.report.groups import Kind
from gtacli.report.previews import Previews
from gtacli.report.runs import Run

if TYPE_CHECKING:
    from gtacli.report.gallery import Gallery


def page_data(
    runs: Sequence[Run],
    labels: Sequence[str],
    kinds: Sequence[Kind],
    previews: Sequence[Previews],
    gallery: Gallery | None,
) -> dict[str, Any]:
    """Everything but the bytes of pictures and maps."""
    groups = [(k, group) for k, kind in enumerate(kinds) for group in kind.groups]
    group_of = {number: g for g, (_, group) in enumerate(groups) for number in group.runs}
    return {
        "kinds": [kind.title for kind in kinds],
        "groups": [{"label": group.label, "runs": group.runs, "kind": k} for k, group in groups],
        "runs": [{"label": label, "group": group_of[i]} for i, label in enumerate(labels)],
        "curves": [
            {"kind": k, **curve} for k, kind in enumerate(kinds) for curve in _curves(runs, kind)
        ],
        "previews": [{"run": one.run, "epochs": one.epochs} for one in previews],
        "maps": _maps(gallery) if gallery and gallery.images else None,
        "answers": _answers(gallery) if gallery and gallery.confusions else None,
    }


def payloads(previews: Sequence[Previews], gallery: Gallery | None) -> dict[str, bytes]:
    """JPEG of image I in view V under `pI-V`; its maps, column after column, under `mI`; the Nth
    preview of the Rth run that has some under `vR-N`."""
    found = {
        f"v{r}-{n}": jpeg for r, one in enumerate(previews) for n, jpeg in enumerate(one.pictures)
    }
    for i, image in enumerate(gallery.images if gallery else ()):
        found |= {f"p{i}-{v}": jpeg for v, jpeg in enumerate(image.pictures)}
        found[f"m{i}"] = b"".join(image.maps)
    return found


def _curves(runs: Sequence[Run], kind: Kind) -> list[dict[str, Any]]:
    """A kind's; of the other runs None."""
    # A refit begins anew on other images; its rows are no part of the same curve.
    rows: list[dict[int, dict[str, Any]]] = [{} for _ in runs]
    for number in kind.runs:
        of_run = [row for row in runs[number].rows if "epoch" in row and "phase" not in row]
        rows[number] = {row["epoch"]: row for row in of_run}
    epochs = sorted({epoch for of_run in rows for epoch in of_run})
    return [
        {
            "title": figure.title,
            "percent": figure.percent,
            "sparse": figure.sparse,
            "epochs": epochs,
            "runs": [_curve(of_run, epochs, figure) for of_run in rows],
        }
        for figure in curves_of(row for of_run in rows for row in of_run.values())
    ]


def _curve(
    rows: dict[int, dict[str, Any]], epochs: Sequence[int], figure: Figure
) -> list[float | None] | None:
    values = [rows.get(epoch, {}).get(figure.key) for epoch in epochs]
    scale = 100 if figure.percent else 1
    found = [scale * v if isinstance(v, int | float) else None for v in values]
    return None if all(value is None for value in found) else found


def _maps(gallery: Gallery) -> dict[str, Any]:
    from gtacli.rendering.colormap import palette
    from gtacli.rendering.heatmap import FAINT, STRONG

    plan = gallery.plan
    assert plan is not None
    return {
        "palette": palette("plasma").hex(),
        "faint": FAINT,
        "strong": STRONG,
        "pooled": plan.heads == "pooled",
        "step": plan.step,
        "rows": plan.rows,
        "deep": plan.deep,
        "columns": [
            {
                "label": column.label,
                "run": column.run,
                "view": column.view,
                "grid": column.grid,
                "layers": column.layers,
                "heads": column.heads,
            }
            for column in gallery.columns
        ],
        "images": [
            {
                "name": image.name,
                "label": image.label,
                "mistake": image.mistake,
                "answers": image.answers,
            }
            for image in gallery.images
        ],
    }


def _answers(gallery: Gallery) -> dict[str, Any]:
    sets = list(dict.fromkeys(classes for classes, _ in gallery.confusions.values()))
    return {
        "classes": sets,
        "runs": [
            {"run": run, "set": sets.index(classes), "counts": counts}
            for run, (classes, counts) in gallery.confusions.items()
        ],
    }
