"""`gta models list`: the models that can be loaded by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Annotated, TypedDict

import typer

from gtacli.cli import console
from gtacli.cli.completion import TIMM_MODULES
from gtacli.cli.lazy import group
from gtacli.errors import GtaError, UsageError
from gtacli.registry import MODELS
from gtacli.runtime.results import Doc

app = group("models")

ModelRow = TypedDict(
    "ModelRow",
    {
        "model": Annotated[str, Doc("name of the model, as `model` takes it")],
        "image_size": Annotated[int | None, Doc("side of its input; null: not listed", "px")],
        "pretrained": Annotated[
            bool | None, Doc("whether it has weights; null: the part does not load")
        ],
        "from": Annotated[str, Doc("distribution that offers it")],
    },
)
"""A model by `gta models list`."""


@app.command("list")
def list_models(
    pattern: Annotated[
        str, typer.Argument(help="part of the name, or a pattern such as 'vit_small*dino*'")
    ] = "*",
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines")] = False,
) -> int:
    """List timm's vision transformers and the registered models."""
    rows = [row for row in _models() if _matches(row["model"], pattern)]
    if not rows:
        raise UsageError(f"no model's name matches '{pattern}'; try `gta models list`")
    if json:
        for row in rows:
            console.emit(row)
    else:
        console.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    return 0


def _models() -> Iterator[ModelRow]:
    for name in MODELS.names():
        yield {
            "model": name,
            "image_size": None,
            "pretrained": _is_pretrained(name),
            "from": MODELS.origin(name).distribution,
        }
    import timm

    for module in TIMM_MODULES:
        for arch in timm.list_models(module=module):
            tagged = timm.list_models(arch + ".*", pretrained=True, module=module)
            for name in tagged or [arch]:
                cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
                yield {
                    "model": name,
                    "image_size": cfg.input_size[-1] if cfg is not None else None,
                    "pretrained": bool(tagged),
                    "from": "timm",
                }


def _is_pretrained(name: str) -> bool | None:
    """Return whether a registered model has weights; None if it does not load."""
    try:
        return MODELS.load(name).pretrained
    except GtaError:  # `gta plugins check` shows the reason
        return None


def _matches(name: str, pattern: str) -> bool:
    wild = any(c in pattern for c in "*?[")
    return fnmatch.fnmatch(name, pattern) if wild else pattern in name
