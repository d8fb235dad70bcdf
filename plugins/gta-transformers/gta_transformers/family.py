"""Family `transformers`: models of Hugging Face by their config.json.

    transformers:FOLDER           config.json and safetensors
    transformers:OWNER/NAME       of the hub, downloaded into its cache; @REVISION may follow

The tensors are converted to timm's names, so that the network is timm's: one forward pass and one
tap for all of `gta`. Nothing of the folder is run, and transformers is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gta_transformers.example import write_example_model
from gta_transformers.kinds import KINDS, Config
from gtacli.errors import GtaError, reason_of_library
from gtacli.models import ModelFamily
from gtacli.models.card import ModelCard, check_arguments
from gtacli.models.files import read_network
from gtacli.models.folders import describe_folder
from gtacli.models.foreign import of_other_program
from gtacli.models.sizes import check_sizes
from gtacli.models.weights import Weights
from gtacli.runtime.fetching import may_fetch, require_fetching
from gtacli.runtime.paths import user_path
from gtacli.runtime.reachable import hub_cache, why_hub_unreachable
from gtacli.runtime.strict_json import read_json, reason_of

CONFIG = "config.json"
FILES = (CONFIG, "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
"""What is taken of a repository of the hub."""
_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+))?")


class Transformers(ModelFamily):
    """The provider of Hugging Face's vision transformers."""

    help = "a ViT, DINOv2, DINOv3 or SigLIP of Hugging Face: transformers:FOLDER or OWNER/NAME"
    usage = "transformers:FOLDER or transformers:OWNER/NAME"

    def open(self, rest: str) -> Weights:
        folder = user_path(rest)
        if not rest or not os.path.isdir(folder):
            repository = _REPOSITORY.fullmatch(rest)
            if repository is None:
                raise GtaError(f"no folder '{rest}'; write {self.usage}")
            folder = _download(repository[1], repository[2])
        return read_folder(folder, f"transformers:{rest}")

    def write_example(self, folder: Path) -> str:
        write_example_model(folder)
        return str(folder)


def read_folder(folder: Path, where: str) -> Weights:
    """Return the weights of a folder that transformers has written. Raises GtaError.

    Args:
        where: name of the folder in messages.
    """
    content = _read_config(folder / CONFIG)
    word = content.get("model_type")
    kind = KINDS.get(word) if isinstance(word, str) else None
    if kind is None:
        known = ", ".join(KINDS)
        raise GtaError(f"{where} is of the kind {word!r:.40}; known: {known}")
    inner = content.get("vision_config", content)
    if not isinstance(inner, dict):
        raise GtaError(f"{folder / CONFIG}: its vision_config is no object")
    name, kwargs = kind.describe(Config(inner, str(folder / CONFIG)))
    check_arguments(kwargs, f"{folder / CONFIG}")
    network, header = read_network(folder)
    found = network.layout.name if network.layout else None
    if found != kind.layout:
        raise GtaError(f"{where}: its config.json says {word}, but its tensors are not named so")
    usual = {"mean": _text(kind.mean), "std": _text(kind.std)}
    said = describe_folder(folder).metadata
    weights = of_other_program(name, network, {**usual, **said, **header}, folder, where)
    assert weights.tensors is not None
    kwargs = {**kwargs, **(weights.kwargs or {})}
    # Of no register at all transformers has an empty tensor.
    tensors = {key: value for key, value in weights.tensors.items() if value.numel()}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    check_sizes(
        name, ModelCard.model_validate({"architecture": name, "kwargs": kwargs}), shapes, where
    )
    return replace(weights, tensors=tensors, kwargs=kwargs)


def _text(numbers: Sequence[float]) -> str:
    return ",".join(map(str, numbers))


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise GtaError(f"{path.parent} is no model of transformers: it has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise GtaError(f"{path} cannot be read ({reason_of(error)})") from error
    if not isinstance(content, dict):
        raise GtaError(f"{path} is not a JSON object")
    return content


def _download(repository: str, revision: str | None) -> Path:
    """Return the folder of a repository in the hub's cache, downloaded if that is allowed."""
    from huggingface_hub import snapshot_download

    unreachable = why_hub_unreachable() if may_fetch() else None
    cached = unreachable is not None or not may_fetch()
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=[*FILES], local_files_only=cached
        )
    except Exception as error:  # of many types
        require_fetching(f"{repository}, which is not cached here,")
        if unreachable:
            raise GtaError(
                f"{repository} is neither a folder nor in the cache, and {unreachable}. Download "
                f"it where there is a network, and copy it to {hub_cache()} here"
            ) from error
        raise GtaError(
            f"{repository} could not be loaded from the hub ({reason_of_library(error)})"
        ) from error
    return Path(folder)
