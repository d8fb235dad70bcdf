"""The config.json beside weights, as timm and transformers write it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError
from gtacli.models.card import HUB_FIELDS, ModelCard, hub_card, read_card
from gtacli.models.files import INDEX, NAMES
from gtacli.runtime.strict_json import read_json, reason_of

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Description:
    """The description of a folder's weights.

    Attributes:
        metadata: as in the header of a weights file, see `read_card`.
        card: of timm's architecture, None without one.
        heads: attention heads of a network of transformers, None if they are not said.
        kind: transformers' name of its kind of network ("vit").
    """

    metadata: dict[str, str] = field(default_factory=dict)
    card: ModelCard | None = None
    heads: int | None = None
    kind: str = ""


def describe_folder(path: Path) -> Description:
    """Return what is said beside a file, or in a folder, of weights; nothing for other files.

    Raises GtaError for files that cannot be read and for what they must not say.
    """
    if not os.path.isdir(path) and path.name not in NAMES and not path.name.endswith(INDEX):
        return Description()
    folder = path if os.path.isdir(path) else path.parent
    config = _read(folder / CONFIG)
    if isinstance(config, dict) and "architecture" in config:
        card = hub_card(config, str(folder))
        values = card.model_dump(include={*HUB_FIELDS[1:], "multi_label"})
        return Description(_texts(values), card)
    if not isinstance(config, dict) or "model_type" not in config:
        return Description()
    inner = config.get("vision_config")  # of CLIP and SigLIP
    heads = (inner if isinstance(inner, dict) else config).get("num_attention_heads")
    images = _read(folder / PREPROCESSOR)
    values = {}
    if isinstance(images, dict) and images.get("do_normalize") is not False:
        values = {key: images.get(f"image_{key}") for key in ("mean", "std")}
    values["classes"] = _classes(config.get("id2label"))
    metadata = _texts(values)
    read_card(metadata, f"{folder / PREPROCESSOR}")
    kind = str(config["model_type"])[:40]
    return Description(metadata, None, heads if type(heads) is int else None, kind)


def _read(path: Path) -> Any:
    if not os.path.isfile(path):
        return None
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise GtaError(f"{path} cannot be read ({reason_of(error)})") from error


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
        if value
    }


def _classes(names: Any) -> list[str]:
    """Return the classes of `id2label` in order; none if they are not named, but numbered."""
    if not isinstance(names, dict):
        return []
    ordered = [names.get(str(number)) for number in range(len(names))]
    if all(name == f"LABEL_{number}" for number, name in enumerate(ordered)):
        return []
    return [str(name) for name in ordered] if None not in ordered else []
