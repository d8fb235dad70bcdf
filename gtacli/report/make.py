"""From run folders to the report's file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

from gtacli import __version__
from gtacli.config.report import ReportConfig
from gtacli.errors import GtaError
from gtacli.report import data, tables
from gtacli.report.groups import Kind, kinds_of, run_labels
from gtacli.report.page import render
from gtacli.report.previews import Previews, read_previews
from gtacli.report.probes import is_probe, probe_tables
from gtacli.report.runs import Run, read_runs
from gtacli.runtime.atomic import write_atomic

if TYPE_CHECKING:
    from gtacli.report.examining import Progress
    from gtacli.report.gallery import Gallery

BASE = 200_000
"""Bytes of a page beside its pictures and maps, roughly."""
PREVIEWS_SHARE = 0.5
"""Of the rest, at most, for pictures of pre-training."""


def make_report(
    config: ReportConfig,
    folders: Sequence[str],
    progress: Progress,
    stream: BinaryIO,
    null: bool = False,
) -> dict[str, Any]:
    """Write the report of the runs in `folders`; returns what became of it, for --json.

    Args:
        progress: (label, total) -> context of `advance(steps=1)`.
        stream: paths of images, where `config.images` has a `-`.

    Raises GtaError for a folder that is no run, RunError where the page cannot be written.
    """
    started = perf_counter()
    if config.out.is_dir():
        raise GtaError(f"--out: {config.out} is a folder; name a file, such as report.html")
    folders_read = read_runs(folders)
    probes = [run for run in folders_read if is_probe(run)]
    runs = [run for run in folders_read if not is_probe(run)]
    kinds = kinds_of(runs)
    labels = run_labels(runs, [group for kind in kinds for group in kind.groups])
    previews: list[Previews] = []
    gallery = None
    if runs and not config.no_images:
        room = config.max_mb * 2**20 - BASE
        previews, missing = read_previews(runs, PREVIEWS_SHARE * room)
        room -= 4 / 3 * sum(len(jpeg) for one in previews for jpeg in one.pictures)
        gallery = _gallery(config, runs, labels, kinds, room, progress, stream, null)
        for line in missing:
            gallery.notes.add(line)
    page = _page(config, runs, labels, kinds, previews, gallery, probes)
    write_atomic(config.out, lambda path: path.write_bytes(page.encode("utf-8", "replace")))
    return {
        "report": str(config.out),
        "runs": len(folders_read),
        "complete": sum(run.summary is not None for run in folders_read),
        "images": len(gallery.images) if gallery else 0,
        "missing": [*gallery.notes] if gallery else [],
        "failed": gallery.failed if gallery else {},
        "bytes": config.out.stat().st_size,
        "seconds": round(perf_counter() - started, 2),
    }


def _gallery(
    config: ReportConfig,
    runs: Sequence[Run],
    labels: Sequence[str],
    kinds: Sequence[Kind],
    room: float,
    progress: Progress,
    stream: BinaryIO,
    null: bool,
) -> Gallery:
    # Only here: with --no-images torch is not loaded.
    from gtacli.data.inputs import iter_images
    from gtacli.report.gallery import make_gallery
    from gtacli.runtime.devices import choose_compute

    named = [*iter_images(config.images, stream, null)] if config.images else []
    order = [number for kind in kinds for number in kind.runs]
    compute = choose_compute(config.device, config.precision)
    return make_gallery(config, runs, labels, order, named, room, compute, progress)


def _page(
    config: ReportConfig,
    runs: Sequence[Run],
    labels: Sequence[str],
    kinds: Sequence[Kind],
    previews: Sequence[Previews],
    gallery: Gallery | None,
    probes: Sequence[Run],
) -> str:
    names = [*labels, *(probe.name for probe in probes)]
    return render(
        title=config.title or _title([*runs, *probes]),
        subtitle=_subtitle(runs, kinds, probes),
        notes=gallery.notes if gallery else [],
        sections={
            "results": tables.results(runs, labels, kinds),
            "common": tables.common_settings(runs, kinds),
            "probes": probe_tables(probes),
            "provenance": tables.provenance([*runs, *probes], names),
            "footer": f"gta {__version__}, {date.today().isoformat()}",
        },
        data=data.page_data(runs, labels, kinds, previews, gallery),
        payloads=data.payloads(previews, gallery),
    )


def _title(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(run.part("data").get("name") for run in runs)
    return ", ".join(str(name) for name in names if name) or "Runs"


def _subtitle(runs: Sequence[Run], kinds: Sequence[Kind], probes: Sequence[Run]) -> str:
    open_runs = sum(run.summary is None for run in runs)
    parts = [
        _count(len(runs), "run") if runs else "",
        _count(sum(len(kind.groups) for kind in kinds), "setting") if runs else "",
        _count(len(probes), "probe") if probes else "",
        f"{open_runs} incomplete" if open_runs else "",
    ]
    return ", ".join(part for part in parts if part)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
