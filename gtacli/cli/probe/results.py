"""The run folder that probes share, and the output of their results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.config.common import CommonConfig
from gtacli.errors import UsageError
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    from gtacli.runtime.distribution import Processes
    from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
_IDENTITY = ("task", "model", "data", "features", "layer", "image_size", "protocol", "gallery")


def open_folder(
    config: CommonConfig,
    call: Call,
    task: str,
    processes: Processes,
    dry: bool = False,
    precision: str | None = None,
) -> RunFolder:
    """Open the run folder and write run.json; an earlier probe's folder is added to.

    Args:
        dry: write nothing, as with `dry_run`.
        precision: of the networks.

    Raises UsageError for a folder with anything else in it. With `overwrite` another command's run
    is removed, unless it holds weights: they may be the model that is probed, and take days.
    """
    from gtacli.runtime.run_files import WEIGHTS_FILE
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    dry = dry or call.dry_run
    out = config.out or processes.run_on_main(lambda: default_out(f"probe-{task}", dry))
    folder = RunFolder(out, dry, processes)
    call.own(folder)
    if not _is_probe(folder):
        if folder.has(WEIGHTS_FILE):
            raise UsageError(
                f"{out} holds a trained model, which a probe does not overwrite; choose another "
                "folder",
                option="out",
            )
        processes.run_on_main(lambda: folder.check_free(config.overwrite, resumable=False))
        folder.clear()
    settings = {"command": call.command, "config": config.model_dump(mode="json")}
    folder.write_json("run.json", {**settings, **environment(precision)})
    return folder


def _is_probe(folder: RunFolder) -> bool:
    if not folder.has("run.json"):
        return False
    return str(folder.read_json("run.json").get("command", "")).startswith("probe ")


def write_results(folder: RunFolder, results: Sequence[dict[str, Any]]) -> None:
    """Write summary.json, keeping the results of other probes in the same folder."""
    if folder.dry:
        return
    earlier = _read_results(folder) if folder.has("summary.json") else []
    new = [_identity(result) for result in results]
    others = [result for result in earlier if _identity(result) not in new]
    folder.write_json("summary.json", {"results": [*others, *results]})


def _read_results(folder: RunFolder) -> list[dict[str, Any]]:
    from gtacli.report.run_schema import RunSummary, check_object

    file = folder.path / "summary.json"
    results: list[dict[str, Any]] | None
    results = check_object(folder.read_json(file.name), RunSummary, file).get("results")
    return results or []


def _identity(result: dict[str, Any]) -> list[Any]:
    return [result.get(name) for name in _IDENTITY]


def print_results(
    call: Call,
    results: Sequence[Mapping[str, Any]],
    show: Callable[[], object],
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Print JSON lines with `json`, else what `show` prints; only in the main process.

    Args:
        skipped: images that could not be read, with the reason, which have not been printed yet.
    """
    if process_info().rank:
        return
    if not call.json:
        show()
        if call.dry_run:
            log.info("dry run: nothing is written, and these figures are those of a few images")
        return
    for key, reason in (skipped or {}).items():
        console.emit({"image": key, "error": reason})
    for result in results:
        console.emit(result)
