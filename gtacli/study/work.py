"""The work on one cell, in whatever process an executor has started for it.

The process owns the cell, so that nobody else runs it meanwhile, looks whether it is finished, runs
the command as anybody would by hand, and records the result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from gtacli.config.commands import config_of
from gtacli.config.study import SEED
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.run_files import (
    PREVIOUS_STATE_FILE,
    RECORD_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
)
from gtacli.runtime.strict_json import read_json
from gtacli.study.code import code_digest
from gtacli.study.folder import CellRecord, StudyFolder
from gtacli.study.plan import Cell, Settings
from gtacli.study.printed import read_result
from gtacli.study.states import StudyProgress, plain_settings

log = logging.getLogger(__name__)
BUSY = 75
"""Exit status where another process runs the cell (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True)
class CellTask:
    """A cell that this process owns and is to run.

    Attributes:
        cell: the cell.
        recipe: its settings as a file.
        out: its run folder.
        resume: value of the option `resume` with which the command goes on; None: it has none.
        overwrite: whether what the folder holds has to be replaced.
    """

    cell: Cell
    recipe: Path
    out: Path
    resume: str | bool | None
    overwrite: bool


def work(path: Path, name: str, run: Callable[[CellTask], tuple[int, str]]) -> int:
    """Run a cell, unless it is finished, and record how it ended.

    Args:
        path: the study's folder.
        name: of the cell.
        run: runs the cell's command; returns its exit status and what it printed.

    Returns: the exit status; `BUSY` if another process runs the cell.

    Raises UsageError if the study has no such cell, or it cannot run yet.
    """
    folder = StudyFolder.existing(path)
    cell = folder.plan.cells.get(name)
    if cell is None:
        raise UsageError(f"{path} has no cell {name}")
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.owned(name))
        except UsageError as error:
            log.info("%s", error.message)
            return BUSY
        progress = StudyProgress(folder)
        record = folder.record(name)
        settings = progress.settings(cell)
        if settings is None:
            raise UsageError(f"{name} has to wait until its tuning cells are finished")
        if record is not None and record.result is not None:
            if changes := progress.changes(cell, record, settings):
                raise UsageError(f"{name} has changed since it was computed: {changes[0]}")
            return 0
        return _run(folder, cell, settings, run)


def _run(
    folder: StudyFolder,
    cell: Cell,
    settings: Settings,
    run: Callable[[CellTask], tuple[int, str]],
) -> int:
    before = folder.record(cell.name)
    folder.remove_record(cell.name)  # of a failure, which would hide how this start ends
    began, data = time.monotonic(), _fingerprints(folder, cell)
    code = code_digest()  # before the command: its files may change while it runs
    status, printed = run(_task(folder, cell, settings))
    if status == 130:  # goes on later
        return status
    result = read_result(printed) if status in (0, 1) else None
    error = None if result is not None else folder.last_line(cell.name)
    record = CellRecord(
        command=cell.command,
        settings=plain_settings(settings),
        code=code,
        versions=_versions(folder.run(cell.name)),
        data=data | _trained_on(folder.run(cell.name), data),
        status=status,
        result=result,
        error=error or (None if result is not None else "it printed no result"),
        seconds=round(time.monotonic() - began, 2),
        starts=1 if before is None else before.starts + 1,
    )
    folder.write_record(cell.name, record)
    if result is not None:
        for path in unneeded(folder, cell):
            path.unlink(missing_ok=True)
    return status


def _task(folder: StudyFolder, cell: Cell, settings: Settings) -> CellTask:
    """Write the cell's recipe, and return how its command goes on where it was."""
    config = config_of(cell.command)
    values = dict(settings)
    if cell.parent is not None:
        values["model"] = str(folder.run(cell.parent))
    if SEED not in config.model_fields:
        values.pop(SEED, None)
    text = tomli_w.dumps({"command": cell.command, **values})
    recipe = folder.records / f"{cell.name}.toml"
    write_atomic(recipe, lambda draft: draft.write_text(text, encoding="utf-8"))
    begun = folder.has_begun(cell.name)
    resume: str | bool | None = None
    if issubclass(config, TrainingConfig):
        resume = "auto"
    elif "resume" in config.model_fields and begun:
        resume = True
    overwrite = begun and resume is None and cell.command != "discover"
    return CellTask(cell, recipe, folder.run(cell.name), resume, overwrite)


def unneeded(folder: StudyFolder, cell: Cell) -> list[Path]:
    """Return files of a finished cell that nothing needs any more, and that may fill a disk.

    With its states nothing goes on; of tuning cells only the result counts.
    """
    run = folder.run(cell.name)
    if run.is_symlink():  # to a folder that is not the study's
        return []
    names = [STATE_FILE, PREVIOUS_STATE_FILE, *([WEIGHTS_FILE] if cell.tunes else [])]
    return [path for name in names if (path := run / name).is_file()]


def data_specs(settings: Settings) -> list[str]:
    """Return the datasets that a cell's settings name."""
    data, columns = settings.get("data"), settings.get("columns")
    named = [data] if isinstance(data, str) else data if isinstance(data, list) else []
    return [spec if columns is None else f"{spec}?{columns}" for spec in named]


def _fingerprints(folder: StudyFolder, cell: Cell) -> dict[str, str]:
    known = folder.inputs.data
    return {spec: known[spec] for spec in data_specs(cell.settings) if spec in known}


def _trained_on(run: Path, data: dict[str, str]) -> dict[str, str]:
    """Return the fingerprint of the dataset that a training has read itself."""
    found = _recorded(run).get("data")
    fingerprint = found.get("fingerprint") if isinstance(found, dict) else None
    if not isinstance(fingerprint, str) or len(data) != 1:
        return {}
    return dict.fromkeys(data, fingerprint)


def _versions(run: Path) -> dict[str, str]:
    found = _recorded(run).get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _recorded(run: Path) -> dict[str, Any]:
    try:
        record = read_json(run / RECORD_FILE)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
