"""Descriptions of the fields that results have, attached to their types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doc:
    """The description of a result's field: ``seconds: Annotated[float, Doc("run time", "s")]``.

    docs/json.md is generated from them.

    Attributes:
        text: what the value means.
        unit: its unit; "" for a value without one.
    """

    text: str
    unit: str = ""
