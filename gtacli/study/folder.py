"""The folder of a study: its file, its cells' runs, and what is recorded of each cell.

study.toml             the study, as it was given last
study.json             what all cells were computed with: the code, its packages, the datasets
cells/NAME/            the run folder of a cell
records/NAME.json      settings and result of a cell that has ended
records/NAME.toml      the cell as a recipe, by which its command can be run by hand
records/NAME.log       log of the cell's command
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ConfigDict, Field

from gtacli.config.base import StrictModel, read_content
from gtacli.config.study import read_study
from gtacli.errors import GtaError, UsageError
from gtacli.executors.base import last_line
from gtacli.runtime.atomic import to_json, write_atomic
from gtacli.runtime.drafts import LOCK_PREFIX, content
from gtacli.runtime.ownership import is_owned, locked_parts, owned, remove_dead_lock
from gtacli.runtime.regular import read_regular_text
from gtacli.runtime.run_files import JOURNAL_FILE, METRICS_FILE, STATE_FILE
from gtacli.runtime.strict_json import read_json, reason_of
from gtacli.study.code import code_digest
from gtacli.study.plan import StudyPlan, make_plan

STUDY_FILE = "study.toml"
INPUTS_FILE = "study.json"
_DRIVER = "run-"


class State(Enum):
    """The state of a cell."""

    FINISHED = "finished"
    CHANGED = "changed"  # finished with other settings, code or data than those of the study now
    FAILED = "failed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"  # for other cells
    READY = "ready"


class CellRecord(StrictModel):
    """The record of a cell that has ended.

    Attributes:
        command, settings: what was run; the settings with those that were chosen, without a model
            that is another cell's run.
        code: digest of the code that computed it.
        versions: of Python and the packages.
        data: fingerprint of the dataset by its spec.
        status: exit status of the command.
        result: the last result that the command printed; None if it failed.
        error: the line with which it failed.
        seconds: run time of its last start.
        starts: how often it was started.
    """

    model_config = ConfigDict(extra="allow")

    command: str
    settings: dict[str, Any]
    code: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    status: int = 0
    result: dict[str, Any] | None = None
    error: str | None = None
    seconds: float = 0.0
    starts: int = 1


class Inputs(StrictModel):
    """The content of study.json."""

    model_config = ConfigDict(extra="allow")

    code: str = ""
    data: dict[str, str] = Field(default_factory=dict)


class StudyFolder:
    """The folder of a study, read anew at every call, as other processes write into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"
        self.records = path / "records"

    @classmethod
    def existing(cls, path: Path) -> StudyFolder:
        """Return a folder in which a study has begun. Raises UsageError for another one."""
        folder = cls(path)
        if not folder.file.is_file():
            raise UsageError(f"{path} is no study's folder: it has no {STUDY_FILE}", option="out")
        return folder

    @property
    def file(self) -> Path:
        """The study's file."""
        return self.path / STUDY_FILE

    @property
    def text(self) -> str:
        """The text of the study's file."""
        try:
            return read_regular_text(self.file)
        except OSError as error:
            text = f"cannot be read ({reason_of(error)})"
            raise UsageError(text, source=str(self.file)) from None

    @cached_property
    def plan(self) -> StudyPlan:
        """The plan of the study's file."""
        return make_plan(read_study(self.text, str(self.file)), str(self.file))

    @cached_property
    def inputs(self) -> Inputs:
        """The code and the datasets that all cells are to be computed with."""
        path = self.path / INPUTS_FILE
        if not path.exists():
            return Inputs(code=code_digest())
        return _read(Inputs, path)

    def begin(self, text: str, plan: StudyPlan, data: Mapping[str, str]) -> None:
        """Write the study's file and what its cells are computed with now."""
        write_atomic(self.file, lambda draft: draft.write_text(text, encoding="utf-8"))
        inputs = to_json({"code": code_digest(), "data": dict(data)}, indent=1)
        write_atomic(
            self.path / INPUTS_FILE, lambda draft: draft.write_text(inputs, encoding="utf-8")
        )
        self.__dict__.pop("inputs", None)
        self.__dict__["plan"] = plan

    def run(self, name: str) -> Path:
        """Return the run folder of a cell."""
        return self.cells / name

    def log(self, name: str) -> Path:
        """Return the log of a cell's command."""
        return self.records / f"{name}.log"

    def last_line(self, name: str) -> str | None:
        """Return the last line of a cell's log, which is that of an error if it failed."""
        return last_line(self.log(name))

    def record(self, name: str) -> CellRecord | None:
        """Return the record of a cell, None if it has not ended. Raises GtaError."""
        path = self.records / f"{name}.json"
        return _read(CellRecord, path) if path.exists() else None

    def write_record(self, name: str, record: CellRecord) -> None:
        """Write the record of a cell."""
        text = to_json(record.model_dump(mode="json"), indent=1)
        path = self.records / f"{name}.json"
        write_atomic(path, lambda draft: draft.write_text(text, encoding="utf-8"))

    def remove_record(self, name: str) -> None:
        """Forget how a cell has ended, as it runs again."""
        (self.records / f"{name}.json").unlink(missing_ok=True)

    @contextmanager
    def owned(self, name: str) -> Iterator[None]:
        """Own a cell inside. Raises UsageError if another process runs it."""
        with owned(self.cells, "study", part=name, shared=True):
            yield

    def is_running(self, name: str) -> bool:
        """Return whether a process owns a cell."""
        return is_owned(self.cells, name)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Let `is_driven` tell others inside that a command hands out the cells."""
        with owned(self.path, "study run", f"{_DRIVER}{uuid4().hex[:12]}", shared=True):
            yield

    def is_driven(self) -> bool:
        """Return whether a command hands out the cells; remove the locks of killed ones."""
        parts = locked_parts(self.path, _DRIVER)
        for part in parts:
            remove_dead_lock(self.path, part)
        return any(is_owned(self.path, part) for part in parts)

    def has_begun(self, name: str) -> bool:
        """Return whether a cell's run folder has content."""
        try:
            return bool(content(os.listdir(self.run(name))))
        except OSError:
            return False

    def saved_at(self, name: str) -> int:
        """Return when a cell has last saved what it goes on with; 0 if it has not."""
        times = [0]
        for file in (STATE_FILE, METRICS_FILE, JOURNAL_FILE):
            with suppress(OSError):
                times.append((self.run(name) / file).stat().st_mtime_ns)
        return max(times)

    def stale(self) -> list[str]:
        """Return names of the cells that the study no longer has."""
        found = set()
        for folder in (self.cells, self.records):
            if folder.is_dir():
                names = (path.name for path in folder.iterdir())
                found |= {
                    name.removesuffix(".json").removesuffix(".toml").removesuffix(".log")
                    for name in names
                    if not name.startswith((".", LOCK_PREFIX))
                }
        return sorted(found - self.plan.cells.keys())


def _read(kind: type[Any], path: Path) -> Any:
    """Return what a file holds. Raises GtaError that names the file and the entry."""
    try:
        return read_content(kind, read_json(path), as_json=True)
    except (OSError, ValueError) as error:
        text = f"{path} cannot be read ({reason_of(error)}); delete it, and the cell runs again"
        raise GtaError(text) from None
