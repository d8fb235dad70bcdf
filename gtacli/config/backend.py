"""Options shared by the commands that find objects: the model and the back-end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from gtacli.config.common import (
    CommonConfig,
    ImageSize,
    PartChoice,
    RegisterSetting,
    read_words,
    registers_option,
)
from gtacli.config.option import option
from gtacli.config.parts import Blocks
from gtacli.config.values import Level, Setting, Tree, find, merge
from gtacli.registry import DISCOVERY

KEY = "discovery"
VOTE = "vote"
"""The back-end whose members `vote` names, where it names no blocks; and that option."""


class BackendConfig(CommonConfig):
    """Options of the discovery of objects in images."""

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = (("model", "teacher"),)
    part_choices: ClassVar[tuple[PartChoice, ...]] = (PartChoice("backend", DISCOVERY, KEY),)
    short: ClassVar[tuple[str, ...]] = ("layer", "tau", "side", "vote")
    """Keys of the back-end's options, whichever source names the back-end."""

    model: str | None = option(
        None,
        "pre-trained ViT: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a registered "
        "name (`gta models list`)",
        metavar="SPEC",
    )
    teacher: str | None = option(None, "another name of `model`", metavar="SPEC")
    backend: str = option(
        "tokencut",
        "method that finds the objects: tokencut, object-dino, found, lost, vote, dino, "
        "gradcam, or a plug-in's (`gta plugins list`)",
        metavar="NAME",
    )
    layer: int | Literal["auto"] | None = option(
        None,
        "block whose features or attention are used, from the end if negative; auto "
        "(tokencut): chosen for the model",
        shown="auto for tokencut, else -1",
    )
    tau: float | Literal["auto"] | None = option(
        None,
        "tokencut: cosine similarity above which two patches are connected; auto: chosen for "
        "the model",
        shown="auto",
    )
    side: Literal["auto", "seed", "center"] | None = option(
        None,
        "tokencut: part of the cut that is the object; seed: that of the largest entry, as "
        "published; center: the connected part nearest to the image's center; auto: seed for "
        "DINO's weights, else center",
        shown="auto",
    )
    vote: Blocks | Annotated[tuple[str, ...], BeforeValidator(read_words)] | None = option(
        None,
        "blocks whose similarities tokencut averages, such as 6,8, or back-ends that vote, such as "
        "tokencut,found,object-dino; none: one block; auto: the pair or the block with the best "
        "result on generated scenes",
        metavar="A,B,...",
        shown="auto",
    )
    discovery: dict[str, dict[str, Any]] = option(dict, "options of back-ends, by name", flag=False)
    image_size: ImageSize | None = option(
        None, "image size of the model in pixels", metavar="N|HxW", shown="the model's"
    )
    registers: RegisterSetting = registers_option("the model's")
    workers: int | None = option(
        None,
        "number of threads that read images; 0: read in the main thread",
        ge=0,
        shown="by the number of cores",
    )

    @property
    def spec(self) -> str | None:
        """The model under either of its names."""
        return self.model if self.model is not None else self.teacher

    @property
    def options(self) -> dict[str, Any]:
        """The given options of the back-end."""
        return self.discovery.get(self.backend, {})

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        """Merge all sources; the `short` keys go to the back-end's own table."""
        levels = [Level(level.rank, _with_voters(level.tree)) for level in levels]
        backend = cls.model_fields["backend"].default
        for level in levels:
            given = level.tree.get("backend")
            if isinstance(given, Setting):
                backend = given.value
        backend = str(backend)
        known = cls.part_choices[0].options(backend)
        tree: Tree = {}
        for level in levels:
            rest = dict(level.tree)
            short = {key: rest.pop(key) for key in cls.short if key in rest}
            for key, value in short.items():
                setting = find(value, ())
                if setting is None or setting.value is None:
                    continue
                if known is not None and key not in known.model_fields:
                    lacks = "finds one object per image" if key == "objects" else f"has no {key}"
                    raise setting.error(f"the backend {backend} {lacks}")
                rest = merge(rest, {KEY: {backend: {key: value}}})
            tree = merge(tree, rest)
        return tree


def _with_voters(tree: Tree) -> Tree:
    """Return a tree whose `vote`, if it names back-ends, is the choice of the back-end `vote`."""
    vote, backend = tree.get(VOTE), tree.get("backend")
    names = read_words(vote.value) if isinstance(vote, Setting) else None
    if not isinstance(names, tuple) or not any(map(_is_name, names)):
        return tree
    assert isinstance(vote, Setting)
    if isinstance(backend, Setting) and backend.value not in (None, VOTE):
        raise vote.error(f"the back-ends {','.join(map(str, names))} vote; leave `backend` out")
    rest = {key: value for key, value in tree.items() if key != VOTE}
    chosen: Tree = {"backend": replace(vote, value=VOTE)}
    members: Tree = {KEY: {VOTE: {"members": replace(vote, value=list(names), typed=False)}}}
    return merge(merge(rest, chosen), members)


def _is_name(word: object) -> bool:
    """Return whether a word of `vote` names a back-end: it is no number, "auto" or "none"."""
    return isinstance(word, str) and not re.fullmatch(r"auto|none|[-+\d.]*", word)
