"""What the configs of all commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic.fields import FieldInfo

from gtacli.config.base import StrictModel
from gtacli.config.values import Level, Tree, merge

# A path may be written as text.
FilePath = Annotated[Path, Field(strict=False)]


def _read_size(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number of pixels, or HEIGHTxWIDTH")
    if isinstance(value, int):
        value = (value, value)
    elif isinstance(value, str):
        sides = re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip())
        if not sides:
            raise ValueError(f"must be a number of pixels, or HEIGHTxWIDTH, got '{value}'")
        value = (int(sides[1]), int(sides[2] or sides[1]))
    elif isinstance(value, Sequence):
        value = tuple(value)
    if (
        not isinstance(value, tuple)
        or len(value) != 2
        or not all(isinstance(side, int) and side >= 1 for side in value)
    ):
        raise ValueError(f"must be a number of pixels, or HEIGHTxWIDTH, got {value!r}")
    return value


def read_numbers(value: object) -> object:
    """Accept `-1,-2` from a command line, a bare number, and a list from a recipe."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d+(,-?\d+)*", value.replace(" ", "")):
        return tuple(int(part) for part in value.split(","))
    return value


def read_words(value: object) -> object:
    """Accept `linear,knn` from a command line, a bare word, and a list from a recipe."""
    if isinstance(value, list):
        return tuple(value)
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else value


def _write_size(size: tuple[int, int]) -> int | str:
    return size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"must be one of auto, cpu, cuda, cuda:N, mps, got '{device}'")
    return device


# (height, width); written as 224 or "320x224".
ImageSize = Annotated[
    tuple[int, int],
    BeforeValidator(_read_size, json_schema_input_type=int | str),
    PlainSerializer(_write_size, return_type=int | str),
]


class CommandConfig(StrictModel):
    """A command's config, with what the resolver and the command line ask of it."""

    # Pairs of keys of which the higher source silences the lower ("--shots" over a recipe's rate);
    # the second of a pair is None where the first counts.
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        """All sources, lowest first, as one tree."""
        tree: Tree = {}
        for level in levels:
            tree = merge(tree, level.tree)
        return tree

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """Keys that are accepted beside the fields (they are folded into one by merge_levels)."""
        return {}

    @classmethod
    def parts(cls, tree: Tree) -> list[tuple[tuple[str, ...], type[StrictModel]]]:
        """Where in the merged tree which part's options lie, for those checked without torch."""
        return []


class DeviceConfig(CommandConfig):
    """Where and how a network runs."""

    device: Annotated[str, AfterValidator(_known_device)] = Field(
        default="auto",
        description="where to compute (auto: the GPU if there is one)",
        json_schema_extra={"metavar": "auto|cpu|cuda|cuda:N|mps"},
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="arithmetic of the networks (auto: bf16 on CUDA, else fp32)"
    )
    batch_size: int = Field(default=32, ge=1, description="images a step")
    workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that load images; 0: none",
        json_schema_extra={"default": "by the machine"},
    )


class CommonConfig(DeviceConfig):
    """What every command that writes a run has."""

    out: FilePath | None = Field(
        default=None,
        description="folder to write; must be new or empty",
        json_schema_extra={"default": "runs/COMMAND-DATE-TIME", "metavar": "DIR"},
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random choice")
    overwrite: bool = Field(default=False, description="use a non-empty --out all the same")
