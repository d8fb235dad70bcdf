"""Base classes and field types of the commands' configs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from gtacli.config.base import StrictModel
from gtacli.config.option import option
from gtacli.config.values import Level, Rank, Tree, merge, plain, tree_of
from gtacli.registry import Registry
from gtacli.runtime.paths import user_path

MERGED = "merged"
"""The validation context of values that `CommandConfig.merge_levels` has merged."""

# A path, which a recipe writes as text.
FilePath = Annotated[Path, Field(strict=False), AfterValidator(user_path)]


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
    """Return a tuple of the whole numbers in `-1,-2`, a bare number or a list."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d+(,-?\d+)*", value.replace(" ", "")):
        return tuple(int(part) for part in value.split(","))
    return value


def _read_number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d+", value) else value


def read_words(value: object) -> object:
    """Return a tuple of the words in `linear,knn`, a bare word or a list."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _write_size(size: tuple[int, int]) -> int | str:
    return size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"must be one of auto, cpu, cuda, cuda:N, mps, got '{device}'")
    return device


# (height, width), written as 224 or "320x224".
ImageSize = Annotated[
    tuple[int, int],
    BeforeValidator(_read_size, json_schema_input_type=int | str),
    PlainSerializer(_write_size, return_type=int | str),
]


@dataclass(frozen=True)
class PartChoice:
    """A choice of parts by name in a command's config.

    Attributes:
        key: the key that names the part, or several.
        registry: of the parts.
        tables: the key whose tables hold the parts' options by name.
    """

    key: str
    registry: Registry[Any]
    tables: str

    def options(self, name: str) -> type[StrictModel] | None:
        """Return the class of a part's options; None where only the part itself knows it."""
        return self.registry.declared_options(name)


class CommandConfig(StrictModel):
    """A command's config, with what the resolver and the command line need to know about it."""

    # Pairs of keys of which the higher source overrides the lower one (`shots` a recipe's
    # `sampling_rate`); the second of a pair must be None where the first counts.
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()
    # The keys that most users need, which the help lists first.
    first: ClassVar[tuple[str, ...]] = ()
    # The parts that it chooses by name. The keys beside the fields (`flat_fields`) are options of
    # the first choice's default part.
    part_choices: ClassVar[tuple[PartChoice, ...]] = ()

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        """Merge all sources, lowest first, into one tree; short forms become full ones."""
        tree: Tree = {}
        for level in levels:
            tree = merge(tree, level.tree)
        return tree

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """Return the keys that are accepted beside the fields; merge_levels moves them."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _name_columns(cls, values: Any) -> Any:
        """Write `columns` into the data spec, by which a run's record repeats it."""
        if not isinstance(values, Mapping) or values.get("columns") is None:
            return values
        data, columns = values.get("data"), values["columns"]
        if not data or "columns" not in cls.model_fields:
            raise ValueError("`columns` names the columns of a table: give it as `data`")
        named = [f"{one}?{columns}" for one in ([data] if isinstance(data, str) else data)]
        text = {"data": named[0] if isinstance(data, str) else named}
        return {**{k: v for k, v in values.items() if k != "columns"}, **text}

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, values: Any, info: ValidationInfo) -> Any:
        """Accept the short forms in Python too: FinetuneConfig(regularizer="bss:0.001")."""
        if info.context == MERGED or not isinstance(values, Mapping):
            return values
        given = {k: v for k, v in values.items() if v is not None}
        return plain(cls.merge_levels([Level(Rank.FLAGS, tree_of(given))]))


def columns_option() -> Any:
    """Return the field `columns` of a config that has `data`."""
    return option(
        None,
        "columns of a table, by name or number: image, label, split, mask",
        metavar="image=NAME,label=NAME",
        shown="found by their usual names",
    )


def multi_label_option() -> Any:
    """Return the field `multi_label` of a config that has `data`."""
    return option(
        False,
        "the images of a table have any number of labels: separated in a cell by |, ;, commas or "
        "spaces, a list, or a column of 0 and 1 for each class",
        switch=True,
    )


# Test-time registers: where the network has outliers, never, or a number of tokens.
RegisterSetting = Annotated[
    Literal["auto", "none"] | Annotated[int, Field(ge=1, le=16)], BeforeValidator(_read_number)
]


def registers_option(whose: str) -> Any:
    """Return the field `registers`; `whose` begins a phrase."""
    return option(
        "none",
        f"test-time registers: move {whose} outlier tokens, which hide the image in its attention, "
        "to appended tokens; auto: if it has outliers, as many tokens as change it least",
        metavar="auto|none|N",
    )


class DeviceConfig(CommandConfig):
    """Options of every command that runs a model."""

    device: Annotated[str, AfterValidator(_known_device)] = option(
        "auto",
        "device to compute on; auto: the GPU if there is one",
        metavar="auto|cpu|cuda|cuda:N|mps",
        choices=["auto", "cpu", "cuda", "mps"],
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "number format of the models; auto: bf16 on CUDA, and for models that are only read on a "
        "CPU that multiplies it; else fp32",
    )
    batch_size: int = option(32, "images per step", ge=1)
    workers: int | None = option(
        None,
        "number of processes that load images; 0: load in the main process",
        ge=0,
        shown="by the number of cores",
    )
    bands: str | None = option(
        None,
        "images of more than four bands: the numbers of three to read, or of one, from 1",
        metavar="N,N,N",
    )
    value_range: str | None = option(
        None,
        "images of more than 8 bits: the value that becomes white, or those that become black and "
        "white",
        metavar="HIGH|LOW:HIGH",
        shown="each image's own depth",
    )


class RecordConfig(CommandConfig):
    """The option of commands that load what the record of a run folder names."""

    allow_fetch: bool = option(
        False,
        "download datasets and weights that a run folder's record names; without it only names "
        "that you give are downloaded",
    )


class CommonConfig(DeviceConfig):
    """Options of every command that writes a run folder."""

    out: FilePath | None = option(
        None, "output folder; must be new or empty", shown="runs/COMMAND-DATE-TIME", metavar="DIR"
    )
    seed: int = option(0, "seed of all random numbers", ge=0, lt=2**32)
    overwrite: bool = option(False, "replace the earlier run in a non-empty `out`")
