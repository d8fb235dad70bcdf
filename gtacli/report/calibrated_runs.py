"""The calibrated runs of a report: a table, and reliability diagrams before and after."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from gtacli.errors import GtaError
from gtacli.inference.calibrated import LabelThreshold, RunCalibration, read_calibration
from gtacli.measures.calibration import ReliabilityBin, error_of_bins
from gtacli.report.run_folders import ReportRun
from gtacli.report.sections import TableSection
from gtacli.runtime.escapes import escape_controls

log = logging.getLogger(__name__)
_SIDE, _LEFT, _TOP, _BELOW, _COLUMNS = 150, 34, 40, 34, 3
_BEFORE, _AFTER, _FAINT = "#999", "#225ea8", "#ccc"
_IMAGES = {"test": "test images", "val": "held-out images, which chose the temperature"}


class _Calibrated(NamedTuple):
    label: str
    temperature: float
    several: bool
    labels: LabelThreshold | None
    images: str
    before: list[ReliabilityBin]
    after: list[ReliabilityBin]


def make_calibration(runs: Sequence[ReportRun], labels: Sequence[str]) -> TableSection | None:
    """Return the section of the calibrated runs; None if no run is."""
    found = [
        one
        for run, label in zip(runs, labels, strict=True)
        if (one := _calibrated(run, label)) is not None
    ]
    if not found:
        return None
    several = any(one.several for one in found)
    head = ["run", "temperature", "calibration error % before", "after"]
    if several:
        head += ["labels predicted above %", "F1 of all labels % above 50 %", "above it"]
    rows = [
        [
            one.label,
            f"{one.temperature:.3g}",
            *(f"{100 * error_of_bins(bins):.1f}" for bins in (one.before, one.after)),
            *(_threshold_cells(one.labels) if several else []),
            f"{sum(b.images for b in one.after):,} {_kind(one)}",
        ]
        for one in found
    ]
    notes = [
        "The error is the mean difference of confidence and accuracy over 15 bins of confidence "
        "(ECE). A dot is a bin, larger with more images; on the dashed line confidence is accuracy."
    ]
    if several:
        notes.append(
            "With any number of labels for an image each label of it counts: its probability is "
            "the confidence, and how often an image has it the accuracy. gta predict names the "
            "labels above the probability at which F1 is highest on the held-out images."
        )
    return TableSection("Calibration", [*head, "on"], rows, notes, _draw(found))


def _threshold_cells(labels: LabelThreshold | None) -> list[str]:
    if labels is None:
        return ["–"] * 3
    return [f"{100 * each:.1f}" for each in (labels.value, labels.f1_before, labels.f1_after)]


def _kind(one: _Calibrated) -> str:
    labels = "labels of " if one.several else ""
    return f"{labels}{_IMAGES[one.images]}"


def _calibrated(run: ReportRun, label: str) -> _Calibrated | None:
    try:
        found: RunCalibration | None = read_calibration(str(run.path))
    except GtaError as error:
        log.warning("%s", error)
        return None
    if found is None or found.reliability is None:
        return None
    curves = found.reliability
    before, after = ([ReliabilityBin(*b) for b in bins] for bins in (curves.before, curves.after))
    several = bool(run.config.get("multi_label"))
    own = (label, found.temperature, several, found.labels, curves.images)
    return _Calibrated(*own, before, after)


def _draw(found: Sequence[_Calibrated]) -> bytes:
    """Draw a diagram per run as SVG: accuracy over confidence."""
    columns = min(_COLUMNS, len(found))
    wide, tall = _LEFT + _SIDE + 14, _TOP + _SIDE + _BELOW
    # A single diagram is not drawn over the whole width of the page.
    size = wide * max(2, columns), tall * -(-len(found) // columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="sans-serif" font-size="10">'
    ]
    for number, one in enumerate(found):
        x, y = number % columns * wide + _LEFT, number // columns * tall + _TOP
        parts += [f'<g transform="translate({x} {y})">', *_panel(one), "</g>"]
    return "\n".join([*parts, "</svg>"]).encode("utf-8", "replace")


def _panel(one: _Calibrated) -> list[str]:
    label = one.label if len(one.label) <= 30 else one.label[:29] + "…"
    ticks = [
        f'<text x="{_SIDE * v:g}" y="{_SIDE + 13}" text-anchor="middle">{v:g}</text>'
        f'<text x="-5" y="{_SIDE * (1 - v) + 3:g}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    ]
    middle = _SIDE // 2
    before, after = (f"{100 * error_of_bins(bins):.1f} %" for bins in (one.before, one.after))
    return [
        f'<text x="0" y="-24" font-size="11">{escape(escape_controls(label))}</text>',
        f'<text x="0" y="-8" fill="{_BEFORE}">before {before}</text>',
        f'<text x="{middle}" y="-8" fill="{_AFTER}">after {after}</text>',
        f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_FAINT}"/>',
        f'<path d="M0 {_SIDE}L{_SIDE} 0" stroke="{_FAINT}" stroke-dasharray="4"/>',
        *ticks,
        f'<text x="{middle}" y="{_SIDE + 26}" text-anchor="middle">confidence</text>',
        f'<text transform="translate(-22 {middle}) rotate(-90)" text-anchor="middle">accuracy'
        "</text>",
        *_curve(one.before, _BEFORE),
        *_curve(one.after, _AFTER),
    ]


def _curve(bins: Sequence[ReliabilityBin], color: str) -> list[str]:
    total = sum(one.images for one in bins) or 1
    places = [(_SIDE * one.confidence, _SIDE * (1 - one.accuracy)) for one in bins]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + 7 * (one.images / total) ** 0.5:.1f}" '
        f'fill="{color}" fill-opacity="0.6"/>'
        for one, (x, y) in zip(bins, places, strict=True)
    ]
    return [f'<path d="M{path}" fill="none" stroke="{color}"/>' if places else "", *dots]
