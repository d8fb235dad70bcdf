"""Reading of run.json by the command that continues its run."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from gtacli.config.base import StrictModel, first_problem
from gtacli.errors import GtaError
from gtacli.runtime.run_folder import RunFolder


class _RecordedPart(StrictModel):
    """An object of the record; it may have other entries."""

    model_config = ConfigDict(extra="allow")


class _RecordedInput(_RecordedPart):
    fingerprint: str


class _RecordedData(_RecordedInput):
    content: str | None = None
    times: str | None = None


class _Resolved(_RecordedPart):
    epochs: int | None = None


class _Record(_RecordedPart):
    """The entries that a resumed run reads; the config is checked as any config is."""

    command: str
    config: dict[str, Any]
    data: _RecordedData
    model: _RecordedInput
    resolved: _Resolved = Field(default_factory=_Resolved)


def read_record(folder: RunFolder, command: str | None = None) -> dict[str, Any]:
    """Return the content of run.json of a training run.

    Args:
        command: name of the command; others' records are returned unchecked.

    Raises GtaError that names the entry.
    """
    record = folder.read_json("run.json")
    if command is not None and record.get("command") != command:
        return record
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        problem = first_problem(error, _Record.model_fields)
        text = f"{folder.path / 'run.json'}: '{'.'.join(problem.path)}' {problem.text}"
        raise GtaError(text, option="resume") from None
    return record
