"""Reading of run.json and summary.json by the command that continues their run."""

from __future__ import annotations

from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import ConfigDict, Field, create_model

from gtacli.config.base import StrictModel, read_content
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
        read_content(_Record, record)
    except ValueError as error:
        raise GtaError(f"{folder.path / 'run.json'}: {error}", option="resume") from None
    return record


def read_summary(folder: RunFolder, kind: type[Any]) -> dict[str, Any]:
    """Return the content of summary.json of a finished training run.

    Args:
        kind: the TypedDict that declares its entries; one that is absent is an earlier version's.

    Raises GtaError that names the entry.
    """
    summary = folder.read_json("summary.json")
    fields: dict[str, Any] = {
        key: (_optional(hint), None) for key, hint in get_type_hints(kind).items()
    }
    try:
        read_content(
            create_model("Summary", __base__=_RecordedPart, **fields), summary, as_json=True
        )
    except ValueError as error:
        text = f"{folder.path / 'summary.json'}: {error}"
        raise GtaError(text, option="resume") from None
    return summary


def _optional(hint: Any) -> Any:
    """Return a type, or null, for Pydantic, which reads no TypedDict of `typing`."""
    return Union[_readable(hint), None]  # noqa: UP007 (of values, not of names)


def _readable(hint: Any) -> Any:
    if is_typeddict(hint):
        return dict[str, Any]
    if get_origin(hint) in (list, dict):
        return get_origin(hint)[tuple(map(_readable, get_args(hint)))]
    return hint
