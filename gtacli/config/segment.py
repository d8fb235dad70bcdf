"""The config of `gta segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath, columns_option
from gtacli.config.option import option
from gtacli.config.values import Level, Setting, Tree

KINDS = {"attention": "dino"}
"""Other names of back-ends, as in the figures of the paper."""


def _listed(value: object) -> object:
    """Return a tuple of one name or of a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class SegmentConfig(BackendConfig):
    """Options of the segmentation of objects in images."""

    short: ClassVar[tuple[str, ...]] = (*BackendConfig.short, "objects")

    data: str | None = option(
        None,
        "dataset whose images are added to the image arguments; its masks or boxes are the "
        "ground truth: a folder, demo, voc/2012:ROOT, coco20k:ROOT, ...",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    kind: str | None = option(
        None,
        "another name of `backend`; attention stands for dino",
        metavar="NAME",
        choices=["attention"],
    )
    objects: int | None = option(
        None, "tokencut: maximum number of objects per image, by repeated cuts (MaskCut)", shown="1"
    )
    compare: Annotated[tuple[str, ...], BeforeValidator(_listed)] = option(
        (),
        "more models for the same images, at the first model's image size",
        metavar="SPEC...",
        multiple=True,
        variadic=True,
        shown="none",
    )
    refine: Literal["none", "bilateral", "guided"] = option(
        "guided",
        "align the mask's border with the image's edges: guided filter, or TokenCut's bilateral "
        "solver, which is slower; none: the patches' border",
    )
    min_confidence: float = option(
        0.0,
        "confidence below which a mask counts as no object: it is left empty",
        metavar="0..1",
        ge=0,
        le=1,
        shown="0, keep all",
    )
    format: Literal["masks", "coco", "voc", "yolo", "label-studio"] = option(
        "masks",
        "masks: a black and white PNG per object; coco: annotations.json; voc: XML files of boxes "
        "and PNG masks; yolo: text files of polygons; label-studio: tasks.json with predictions",
    )
    outline: Literal["rle", "polygon"] = option(
        "rle", "outlines of coco and label-studio: run lengths (brush strokes), or polygons"
    )
    category: str = option("object", "name of the objects' category in annotations", metavar="NAME")
    url_prefix: str = option(
        "/data/local-files/?d=",
        "label-studio: text before the path of each image; the default is for local storage",
        metavar="TEXT",
    )
    ground_truth: FilePath | None = option(
        None,
        "folder of ground truth named like the images: black and white masks, masks of object or "
        "class ids, VOC's .xml, LabelMe's .json or YOLO's .txt files; or one JSON file, in COCO's "
        "format or exported by Label Studio",
        metavar="DIR|FILE",
    )
    void: Literal["drop", "keep"] = option(
        "drop",
        "pixels of value 255 in a mask of ids: drop ignores them, keep counts them as background",
    )
    workers: int | None = option(
        None,
        "number of threads that read images, and of those that refine and write; 0: use the "
        "main thread",
        ge=0,
        shown="by the number of cores",
    )
    resume: bool = option(
        False,
        "continue an interrupted run in `out`, given the same images and options: its results are "
        "repeated, and the other images are processed",
    )
    overlay: bool = option(False, "also write each image with its mask, STEM.overlay.jpg")

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        return super().merge_levels([Level(lv.rank, _rename_kind(lv.tree)) for lv in levels])


def _rename_kind(tree: Tree) -> Tree:
    """Return a tree with `kind` renamed to `backend`."""
    kind, backend = tree.get("kind"), tree.get("backend")
    rest = {key: value for key, value in tree.items() if key != "kind"}
    if not isinstance(kind, Setting) or kind.value is None:
        return rest
    if isinstance(backend, Setting) and backend.value is not None:
        raise kind.error("`kind` and `backend` are two names of one option; give one of them")
    return {**rest, "backend": replace(kind, value=KINDS.get(str(kind.value), kind.value))}
