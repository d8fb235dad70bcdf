"""Options of work that is done in parts: one part by hand, or all of them on an executor."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from gtacli.config.common import PartChoice
from gtacli.config.option import option
from gtacli.registry import EXECUTORS

EXECUTOR = PartChoice("executor", EXECUTORS, "executors")


def _read_shard(value: object) -> object:
    if isinstance(value, str):
        numbers = re.fullmatch(r"(\d+)/(\d+)", value.strip())
        value = tuple(int(n) for n in numbers.groups()) if numbers else value
    if isinstance(value, list):
        value = tuple(value)
    if not (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(n, int) for n in value)
        and 0 <= value[0] < value[1]
    ):
        raise ValueError(f"must be I/N with I from 0 to N - 1, got {value!r}")
    return value


# The I-th of N parts of the images, written as "I/N".
Shard = Annotated[
    tuple[int, int],
    BeforeValidator(_read_shard, json_schema_input_type=str),
    PlainSerializer(lambda shard: f"{shard[0]}/{shard[1]}", return_type=str),
]


def executor_option(work: str) -> Any:
    """Return the field `executor` of a config; `work` says what the executor's commands do."""
    return option(
        None,
        f"{work}: local, slurm, ray, or a plug-in's executor",
        metavar="NAME",
        shown="off",
    )


def executors_option() -> Any:
    """Return the field `executors` beside `executor`."""
    return option(dict, "options of executors, by name", flag=False)


def jobs_option() -> Any:
    """Return the field `jobs` beside `executor`."""
    return option(None, "number of these parts", ge=1, shown="one a GPU; slurm, ray: 8")


def require_executor(executor: str | None, jobs: int | None) -> None:
    """Raise ValueError for a number of parts that nobody works on."""
    if jobs is not None and executor is None:
        raise ValueError("`jobs` needs `executor`, which starts the parts; local is this machine")
