"""`gta models list`: the networks that can be asked for by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group

# timm's modules whose entry functions build the classes that the attention tap reads
# (VisionTransformer, VisionTransformerDistilled, Eva). Nothing is built for the list.
MODULES = ("vision_transformer", "deit", "eva")

app = group("The models that can be used.")


@app.command("list")
def list_models(
    pattern: Annotated[
        str, typer.Argument(help="part of the name, or a pattern such as 'vit_small*dino*'")
    ] = "*",
    json: Annotated[bool, typer.Option("--json", help="JSON Lines")] = False,
) -> int:
    """List them: vision transformers of timm, and registered names."""
    rows = [row for row in _models() if _matches(row["model"], pattern)]
    if json:
        for row in rows:
            console.emit(row)
    elif rows:
        columns = ("model", "image_size", "pretrained", "from")
        console.table(columns, [[row[c] for c in columns] for row in rows])
    if not rows:
        from gtacli.errors import UsageError

        raise UsageError(f"no model's name matches '{pattern}'; try `gta models list`")
    return 0


def _models() -> Iterator[dict[str, Any]]:
    from gtacli.registry import MODELS

    for name in MODELS.names():
        origin = MODELS.origin(name)
        yield {
            "model": name,
            "image_size": None,
            "pretrained": _is_pretrained(name),
            "from": origin.distribution,
        }
    import timm

    for module in MODULES:
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
    """None of a part that does not load; `gta plugins check` says why."""
    from gtacli.errors import GtaError
    from gtacli.registry import MODELS

    try:
        return MODELS.load(name).pretrained
    except GtaError:
        return None


def _matches(name: str, pattern: str) -> bool:
    wild = any(c in pattern for c in "*?[")
    return fnmatch.fnmatch(name, pattern) if wild else pattern in name
