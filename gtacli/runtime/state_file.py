"""Reading and writing of state.pt, whose damage is noticed.

It is a zip archive with a CRC-32 of every member, which torch writes and never checks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gtacli.errors import GtaError
from gtacli.runtime.regular import check_regular


def write_state_file(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state. Raises OSError."""
    with path.open("wb") as file:  # torch's own writer hides the system's error
        torch.save(dict(state), file)


def read_state_file(path: Path) -> dict[str, Any]:
    """Return a state, whose tensors are on the CPU.

    Raises GtaError (option "resume") if there is none, or if it is damaged.
    """
    try:
        check_regular(path)
    except OSError as e:
        text = f"{path} {e.strerror}"
        if isinstance(e, FileNotFoundError):
            text = f"{path.parent} has no {path.name}: its run ended before the first epoch"
        raise GtaError(text, option="resume") from e
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {member} is wrong")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as e:  # a damaged file makes both raise almost any type
        reason = (str(e).splitlines() or ["it cannot be read"])[0]
        raise GtaError(f"{path} is damaged ({reason})", option="resume") from e
