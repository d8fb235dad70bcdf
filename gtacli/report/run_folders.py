"""Run folders as input of a report. Nothing here imports torch, to keep `no_images` fast."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gtacli.config.recorded import from_folder
from gtacli.errors import GtaError
from gtacli.report.run_schema import (
    MetricsRow,
    RunRecord,
    RunSummary,
    check_object,
    is_number,
)
from gtacli.runtime.atomic import replace_nonfinite
from gtacli.runtime.regular import read_regular_text
from gtacli.runtime.run_files import WEIGHTS_FILE
from gtacli.runtime.secrets import mask_values
from gtacli.runtime.strict_json import parse_json, read_json, reason_of


@dataclass(frozen=True)
class ReportRun:
    """The content of a run folder, whose entries are of the types in `run_schema`.

    Attributes:
        path: the folder.
        name: the folder's name, with as many parents as make it unique in the report.
        record: run.json.
        summary: summary.json; None: the run is incomplete.
        rows: metrics.jsonl, one object per epoch.
    """

    path: Path
    name: str
    record: dict[str, Any]
    summary: dict[str, Any] | None
    rows: list[dict[str, Any]]

    def section(self, name: str) -> dict[str, Any]:
        """Return an object of the record; empty if the record has none of that name."""
        value = self.record.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def command(self) -> str:
        """The command that created the run; "run" if the record does not say."""
        return str(self.record.get("command", "run"))

    @property
    def config(self) -> dict[str, Any]:
        return self.section("config")

    def setting(self, key: str) -> Any:
        """Return a setting; a relative path in it is that of the folder where the run began."""
        return from_folder(self.config.get(key), self.record.get("folder"))

    @property
    def command_line(self) -> str:
        argv = self.record.get("argv")
        return shlex.join(map(str, argv)) if isinstance(argv, list) else "–"

    @property
    def has_weights(self) -> bool:
        return os.path.isfile(self.path / WEIGHTS_FILE)

    @property
    def epochs(self) -> tuple[int, int | None]:
        """The number of completed epochs and the number of planned ones."""
        done = 1 + max((row["epoch"] for row in self.rows), default=-1)
        return done, self.config.get("epochs")

    def result(self, key: str) -> float | None:
        """Return a number of the summary; None if it has none of that name."""
        value = (self.summary or {}).get(key)
        return value if is_number(value) else None


def read_runs(folders: Sequence[str]) -> list[ReportRun]:
    """Read run folders in the given order, each folder once.

    Raises GtaError for a folder that is not a run folder or has damaged files.
    """
    if not folders:
        raise GtaError("no run: name the folders of one or more runs (runs/*)")
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    return [_read_run(path, name) for path, name in zip(paths, _unique_names(paths), strict=True)]


def _read_run(path: Path, name: str) -> ReportRun:
    if not os.path.exists(path):
        raise GtaError(f"no such folder: {path}")
    if not os.path.isfile(path / "run.json"):
        below = os.path.isdir(path) and any(path.glob("*/run.json"))
        hint = f"; its subfolders are runs: {path}/*" if below else ""
        raise GtaError(f"{path} is not a run folder (it has no run.json){hint}")
    record = _read_object(path / "run.json", RunRecord)
    file = path / "summary.json"
    summary = _read_object(file, RunSummary) if os.path.isfile(file) else None
    return ReportRun(path, name, record, summary, _read_rows(path))


def _read_object(file: Path, schema: type[BaseModel]) -> dict[str, Any]:
    try:
        value = mask_values(replace_nonfinite(read_json(file, nonfinite=True)))
    except (OSError, ValueError) as error:
        raise GtaError(f"{file} cannot be read ({reason_of(error)})") from error
    return check_object(value, schema, file)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    file = path / "metrics.jsonl"
    if not os.path.isfile(file):
        return []
    rows = []
    try:
        for number, line in enumerate(read_regular_text(file).splitlines(), 1):
            if line:
                row = replace_nonfinite(parse_json(line, nonfinite=True))
                rows.append(_with_last_block(check_object(row, MetricsRow, file, number)))
    except (OSError, ValueError) as error:
        raise GtaError(f"{file} cannot be read ({reason_of(error)})") from error
    # The last row of an epoch counts, and there is nothing to draw without its number.
    return [row for row in rows if row.get("epoch") is not None]


def _with_last_block(row: dict[str, Any]) -> dict[str, Any]:
    """Add the last block's values of the per-block lists that `track_attention` logs."""
    tracked = row.get("attention")
    lists = tracked.items() if isinstance(tracked, dict) else ()
    last = {f"attention_{k}": v[-1] for k, v in lists if isinstance(v, list) and v}
    return {**row, **last}


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parent folders as make them unique."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max((len(p.parts) for p in resolved), default=1) + 1):
        names = ["/".join(p.parts[-depth:]) for p in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in resolved]
