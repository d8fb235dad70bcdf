"""Values in the record of a run, as they were meant in the folder where it began."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from gtacli.registry import DATASETS, MODELS

_COLUMNS = re.compile(r"(?P<tables>.+)(?P<columns>\?[^?]*=[^?]*)", re.DOTALL)
_STARTS = (re.compile(r"wds/|parquet/|hfds/|torch/[^:]*:"), re.compile(r".*@"), re.compile(r".*:"))
"""What may stand before a path: the family of a dataset, ARCH@, NAME:."""


def from_folder(value: Any, began: object) -> Any:
    """Return an option's value; a relative path that exists where the run began is made absolute.

    Args:
        value: a path, paths joined by commas, or a text that ends in a path: ARCH@FILE, NAME:ROOT,
            wds/SHARDS; columns may follow (`birds.csv?image=photo`).
        began: the working folder of the run, by its record.
    """
    if not isinstance(value, str) or not isinstance(began, str):
        return value
    if os.path.exists(Path(began) / value) and _is_name(value):  # as `--data demo --out demo`
        return value
    whole = _moved(value, Path(began))
    if whole is not None:
        return whole
    named = _COLUMNS.fullmatch(value)
    tables, columns = (named["tables"], named["columns"]) if named else (value, "")
    parts = [_moved(part.strip(), Path(began)) for part in tables.split(",")]
    return value if None in parts else ",".join(map(str, parts)) + columns


def _is_name(value: str) -> bool:
    """Return whether a text is the name of a dataset or a model, which goes before a folder's."""
    if "/" in value:
        return False
    if value in DATASETS.names() or value in MODELS.names():
        return True
    from timm import is_model  # late: it imports torch, and few folders are called so

    return bool(is_model(value))


def _moved(value: str, began: Path) -> str | None:
    """Return a value with its path below `began`; None if there is no such path."""
    for start in ("", *(found[0] for each in _STARTS if (found := each.match(value)))):
        path = value.removeprefix(start)
        # Of a pattern of shards the folder says where it is.
        known = os.path.dirname(path) if re.search(r"[{*?\[]", path) else path
        try:
            if path and not os.path.isabs(path) and known and os.path.exists(began / known):
                return f"{start}{began / path}"
        except (OSError, ValueError):  # too long for a path
            continue
    return None
