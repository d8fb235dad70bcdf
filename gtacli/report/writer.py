"""Creation of the report's file from run folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypedDict

from gtacli import __version__
from gtacli.config.report import ReportConfig
from gtacli.errors import UsageError
from gtacli.report.calibrated_runs import make_calibration
from gtacli.report.groups import CommandRuns, group_by_command, label_runs
from gtacli.report.label_tables import HEAD, label_rows, make_label_table
from gtacli.report.page import render_page
from gtacli.report.page_data import make_page_data, make_payloads
from gtacli.report.previews import BASE64, RunPreviews, read_previews
from gtacli.report.probe_tables import is_probe, make_probe_tables
from gtacli.report.result_tables import make_result_table
from gtacli.report.run_details import describe_run, shared_settings
from gtacli.report.run_folders import ReportRun, read_runs
from gtacli.report.sections import TableSection
from gtacli.runtime.atomic import check_writable, write_atomic
from gtacli.runtime.fetching import recorded_specs
from gtacli.runtime.results import Doc

if TYPE_CHECKING:
    from gtacli.report.evaluation import ReportProgress
    from gtacli.report.gallery import Gallery

BASE_BYTES = 200_000
"""Approximate size of a page without pictures and maps."""
PREVIEW_FRACTION = 0.5
"""Maximum fraction of the remaining size for previews of pre-training."""


class ReportResult(TypedDict):
    """The result of `gta report`, printed with `json`."""

    report: Annotated[str, Doc("path of the page")]
    runs: Annotated[int, Doc("number of runs and probes")]
    complete: Annotated[int, Doc("number of runs and probes with a summary")]
    images: Annotated[int, Doc("number of images with attention maps")]
    missing: Annotated[list[str], Doc("missing content and its reasons")]
    failed: Annotated[dict[str, str], Doc("error by the name of an image that cannot be read")]
    confusion: Annotated[
        list[str], Doc("files of the confusion matrices; empty without the option")
    ]
    bytes: Annotated[int, Doc("size of the page", "bytes")]
    seconds: Annotated[float, Doc("run time", "s")]


def write_report(
    config: ReportConfig,
    folders: Sequence[str],
    progress: ReportProgress,
    stream: BinaryIO,
    null: bool = False,
    sections: Sequence[TableSection] = (),
) -> ReportResult:
    """Write the report of the runs in `folders`.

    Args:
        progress: (label, total) -> context of `advance(steps=1)`.
        stream: input with the paths of images if `config.images` contains "-".
        null: whether the paths in `stream` end with NUL instead of a newline.
        sections: shown before the runs' own results.

    Raises GtaError for a folder that is not a run folder, RunError if the page cannot be written.
    """
    started = perf_counter()
    if os.path.isdir(config.out):
        raise UsageError(
            f"{config.out} is a folder; name a file, such as report.html", option="out"
        )
    if config.confusion is not None and config.no_images:
        raise UsageError("not with `no_images`, which classifies no image", option="confusion")
    read = read_runs(folders)
    check_writable(config.out)
    if config.confusion is not None:
        check_writable(config.confusion / "confusion.png", "confusion")
    probes = [run for run in read if is_probe(run)]
    runs = [run for run in read if not is_probe(run)]
    commands = group_by_command(runs)
    labels = label_runs(runs, [group for command in commands for group in command.groups])
    previews: list[RunPreviews] = []
    gallery = None
    if runs and not config.no_images:
        room = config.max_mb * 2**20 - BASE_BYTES
        previews, missing = read_previews(runs, PREVIEW_FRACTION * room)
        room -= BASE64 * sum(len(jpeg) for one in previews for jpeg in one.pictures)
        order = [number for command in commands for number in command.runs]
        gallery = _make_gallery(config, runs, labels, order, room, progress, stream, null)
        for line in missing:
            gallery.notes.add(line)
    files = _write_confusions(config.confusion, runs, gallery)
    content = _page_content(config, runs, labels, commands, gallery, probes, sections)
    data = make_page_data(runs, labels, commands, previews, gallery)
    page = render_page(content, data, make_payloads(previews, gallery))
    write_atomic(config.out, lambda path: path.write_bytes(page.encode("utf-8", "replace")))
    return {
        "report": str(config.out),
        "runs": len(read),
        "complete": sum(run.summary is not None for run in read),
        "images": len(gallery.images) if gallery else 0,
        "missing": [*gallery.notes] if gallery else [],
        "failed": gallery.failed if gallery else {},
        "confusion": files,
        "bytes": config.out.stat().st_size,
        "seconds": round(perf_counter() - started, 2),
    }


def _make_gallery(
    config: ReportConfig,
    runs: Sequence[ReportRun],
    labels: Sequence[str],
    order: Sequence[int],
    room: float,
    progress: ReportProgress,
    stream: BinaryIO,
    null: bool,
) -> Gallery:
    # Imported only here: with `no_images` torch is not loaded.
    from gtacli.data.inputs import iter_images
    from gtacli.report.gallery import make_gallery
    from gtacli.runtime.devices import choose_compute

    named = [*iter_images(config.images, stream, null)] if config.images else []
    compute = choose_compute(config.device, config.precision)
    with recorded_specs("the record of a run", config.allow_fetch):
        return make_gallery(config, runs, labels, order, named, room, compute, progress)


def _write_confusions(
    folder: Path | None, runs: Sequence[ReportRun], gallery: Gallery | None
) -> list[str]:
    if folder is None or gallery is None:
        return []
    several = {run.name: [*label_rows(run)] for run in runs}
    if not gallery.confusions and not any(several.values()):
        gallery.notes.add("no confusion matrix: the runs have learned from all their images")
    # Imported only here: it needs Pillow and NumPy, which a page without images does not.
    from gtacli.report.confusion import write_classes, write_confusions

    named = {runs[number].name: found for number, found in gallery.confusions.items()}
    tables = {name: rows for name, rows in several.items() if rows}
    apart = len(named) + len(tables) > 1
    written = write_classes(folder, HEAD, tables, apart)
    return [*write_confusions(folder, named, apart), *written]


def _page_content(
    config: ReportConfig,
    runs: Sequence[ReportRun],
    labels: Sequence[str],
    commands: Sequence[CommandRuns],
    gallery: Gallery | None,
    probes: Sequence[ReportRun],
    sections: Sequence[TableSection],
) -> dict[str, Any]:
    """Return the variables of the page's template."""
    named = [*zip(runs, labels, strict=True), *((probe, probe.name) for probe in probes)]
    return {
        "title": config.title or _title([*runs, *probes]),
        "subtitle": _subtitle(runs, commands, probes),
        "notes": gallery.notes if gallery else [],
        "sections": sections,
        "labels": make_label_table(runs, labels),
        "calibration": make_calibration(runs, labels),
        "results": [make_result_table(runs, command) for command in commands],
        "probes": make_probe_tables(probes),
        "shared": [(_shared_title(c, commands), shared_settings(runs, c)) for c in commands],
        "runs": [(run, name, describe_run(run)) for run, name in named],
        "footer": f"gta {__version__}, {date.today().isoformat()}",
    }


def _title(runs: Sequence[ReportRun]) -> str:
    names = dict.fromkeys(run.section("data").get("name") for run in runs)
    return ", ".join(str(name) for name in names if name) or "Runs"


def _subtitle(
    runs: Sequence[ReportRun], commands: Sequence[CommandRuns], probes: Sequence[ReportRun]
) -> str:
    incomplete = sum(run.summary is None for run in runs)
    parts = [
        _count(len(runs), "run") if runs else "",
        _count(sum(len(command.groups) for command in commands), "setting") if runs else "",
        _count(len(probes), "probe") if probes else "",
        f"{incomplete} incomplete" if incomplete else "",
    ]
    return ", ".join(part for part in parts if part)


def _shared_title(command: CommandRuns, commands: Sequence[CommandRuns]) -> str:
    runs = "all runs" if len(commands) == 1 else f"all {command.title.lower()} runs"
    return f"settings that {runs} share"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
