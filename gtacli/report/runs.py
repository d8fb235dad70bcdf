"""Run folders as a report reads them. No torch: a report without images is there at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError
from gtacli.runtime.atomic import replace_nonfinite
from gtacli.runtime.run_files import WEIGHTS_FILE


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        name: tells it from the report's other runs.
        record: run.json.
        summary: summary.json; None: the run has not come to its end.
        rows: metrics.jsonl, an object an epoch.
    """

    path: Path
    name: str
    record: dict[str, Any]
    summary: dict[str, Any] | None
    rows: list[dict[str, Any]]

    def part(self, name: str) -> dict[str, Any]:
        """A table of the record, empty where it has none."""
        found = self.record.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def command(self) -> str:
        """Which made it; "run" where its record does not say."""
        return str(self.record.get("command", "run"))

    @property
    def config(self) -> dict[str, Any]:
        return self.part("config")

    @property
    def has_weights(self) -> bool:
        return (self.path / WEIGHTS_FILE).is_file()

    @property
    def epochs(self) -> tuple[int, int | None]:
        """How many are done, of how many."""
        done = 1 + max((row["epoch"] for row in self.rows if "epoch" in row), default=-1)
        return done, self.config.get("epochs")


def read_runs(folders: Sequence[str]) -> list[Run]:
    """The runs in the order given, each folder once.

    Raises GtaError for a folder that is no run, or whose files are damaged.
    """
    if not folders:
        raise GtaError("no run: name the folders of one or more runs (runs/*)")
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _read(path: Path, name: str) -> Run:
    if not path.exists():
        raise GtaError(f"no such folder: {path}")
    if not (path / "run.json").is_file():
        raise GtaError(f"{path} is no run folder (it has no run.json){_hint(path)}")
    summary = path / "summary.json"
    record = _object(path / "run.json")
    return Run(path, name, record, _object(summary) if summary.is_file() else None, _rows(path))


def _hint(path: Path) -> str:
    if path.is_dir() and any(path.glob("*/run.json")):
        return f"; the runs are in it: {path}/*"
    return ""


def _object(file: Path) -> dict[str, Any]:
    try:
        value = replace_nonfinite(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise GtaError(f"{file} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise GtaError(f"{file} holds no JSON object")
    return value


def _rows(path: Path) -> list[dict[str, Any]]:
    file = path / "metrics.jsonl"
    if not file.is_file():
        return []
    try:
        rows = [
            replace_nonfinite(json.loads(line))
            for line in file.read_text("utf-8").splitlines()
            if line
        ]
    except (OSError, ValueError) as error:
        raise GtaError(f"{file} cannot be read ({error})") from error
    return [_with_last_block(row) for row in rows if isinstance(row, dict)]


def _with_last_block(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of --track-attention are lists over the blocks; the last one's sum them up."""
    tracked = row.get("attention")
    lists = tracked.items() if isinstance(tracked, dict) else ()
    last = {f"attention_{k}": v[-1] for k, v in lists if isinstance(v, list) and v}
    return {**row, **last}


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as it takes to tell them apart."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max((len(p.parts) for p in resolved), default=1) + 1):
        names = ["/".join(p.parts[-depth:]) for p in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in resolved]
