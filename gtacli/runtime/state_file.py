"""Reading and writing of state.pt, whose damage is noticed.

It is a zip archive with a CRC-32 of every member, which torch writes and never checks. A state may
be a stranger's, so it is examined as pickled weights are (`archives`) before torch reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gtacli.errors import GtaError
from gtacli.runtime.archives import CallError, check_archive
from gtacli.runtime.pickles import ArchiveError
from gtacli.runtime.regular import check_regular, open_regular
from gtacli.runtime.strict_json import reason_of


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
        with open_regular(path) as file:
            check_archive(file)
            file.seek(0)
            return dict(torch.load(file, map_location="cpu", weights_only=True))
    except CallError as e:
        raise _damaged(path, f"it calls {e}") from e
    except ArchiveError as e:
        raise _damaged(path, f"it {e}") from e
    except OSError as e:
        raise _damaged(path, reason_of(e)) from e
    except MemoryError:
        raise
    except Exception as e:  # a damaged file makes torch raise almost any type
        raise _damaged(path, "it holds other things than a state") from e


def _damaged(path: Path, reason: str) -> GtaError:
    return GtaError(f"{path} is damaged ({reason})", option="resume")
