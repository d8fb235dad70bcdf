"""The config of `gta segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath
from gtacli.config.values import Level, Setting, Tree

KINDS = {"attention": "dino"}
"""Other names of back-ends: what the paper's figures call them."""


def _listed(value: object) -> object:
    """Accept one name alone, and a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class SegmentConfig(BackendConfig):
    """How objects are found in images, and what is written of them."""

    short: ClassVar[tuple[str, ...]] = (*BackendConfig.short, "objects")

    data: str | None = Field(
        default=None,
        description="a data set's images, after those that are named; its own masks or boxes are "
        "the ground truth: a folder, demo, voc/2012:ROOT, coco20k:ROOT, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    kind: str | None = Field(
        default=None,
        description="another name for --backend, in which attention is dino",
        json_schema_extra={"metavar": "NAME", "choices": ["attention"]},
    )
    objects: int | None = Field(
        default=None,
        description="tokencut: objects an image at most, by repeated cuts (MaskCut)",
        json_schema_extra={"default": "1"},
    )
    compare: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="further models on the same images, at the first one's input size: all words "
        "up to the next option",
        json_schema_extra={
            "metavar": "SPEC...",
            "multiple": True,
            "variadic": True,
            "default": "none",
        },
    )
    refine: Literal["none", "bilateral", "guided"] = Field(
        default="none",
        description="draw the mask's border along the image's edges: the bilateral solver, or a "
        "guided filter, which is faster",
    )
    ground_truth: FilePath | None = Field(
        default=None,
        description="folder of files named like the images, to score against: black and white "
        "masks, masks of object or class ids, or VOC's .xml with boxes",
        json_schema_extra={"metavar": "DIR"},
    )
    void: Literal["drop", "keep"] = Field(
        default="drop",
        description="pixels of value 255 in a mask of ids: not counted, or background as in ports "
        "of DINO's evaluation",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images, and as many that refine and write; 0: none",
        json_schema_extra={"default": "by the machine"},
    )
    overlay: bool = Field(default=False, description="also write STEM.overlay.jpg beside each mask")

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        return super().merge_levels([Level(lv.rank, _one_name(lv.tree)) for lv in levels])


def _one_name(tree: Tree) -> Tree:
    """`kind` as `backend`."""
    kind, backend = tree.get("kind"), tree.get("backend")
    rest = {key: value for key, value in tree.items() if key != "kind"}
    if not isinstance(kind, Setting) or kind.value is None:
        return rest
    if isinstance(backend, Setting) and backend.value is not None:
        raise kind.error("`kind` and `backend` are two names of one option; give one of them")
    return {**rest, "backend": replace(kind, value=KINDS.get(str(kind.value), kind.value))}
