"""Choices for a network that are made once and kept in the program's cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from gtacli.config.base import StrictModel
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.strict_json import read_json, reason_of

log = logging.getLogger(__name__)
C = TypeVar("C", bound=StrictModel)
CHOSEN_AGAIN = "it is chosen again"


def read_choice(file: Path, kind: type[C], again: str = CHOSEN_AGAIN) -> C | None:
    """Return a cached choice; None if there is none, or a damaged one, with a warning.

    Args:
        again: what happens then, for the warning.
    """
    try:
        return kind.model_validate(read_json(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = "its values are not those of a choice"
        if not isinstance(error, ValidationError):
            reason = reason_of(error)
        log.warning("%s is damaged (%s): %s", file, reason, again)
        return None


def write_choice(file: Path, choice: StrictModel, again: str = CHOSEN_AGAIN) -> None:
    """Write a choice to the cache; warn if that is impossible."""
    text = choice.model_dump_json()
    try:
        replace_atomic(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    except OSError as error:
        log.warning("cannot write %s (%s): %s next time", file, error, again)
