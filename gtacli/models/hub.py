"""Folders of a model hub: config.json and weights, checked before timm builds a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.models import _helpers, _hub

from gtacli.errors import GtaError
from gtacli.models.card import hub_card
from gtacli.models.sizes import check_architecture, check_count
from gtacli.runtime.archives import read_archive, read_tensors
from gtacli.runtime.regular import check_regular, open_regular
from gtacli.runtime.strict_json import read_json


@contextmanager
def checked_files(spec: str) -> Iterator[dict[str, str]]:
    """Let timm read configs and pickled weights only if they pass the checks of this program.

    Yields metadata, as in the header of a weights file, that has what a config says and timm drops.
    """
    hub: Any = _hub
    metadata: dict[str, str] = {}

    def read_config(path: str | Path) -> Any:
        config = read_json(Path(path))
        if hub_card(config, spec).multi_label:
            metadata["multi_label"] = "true"
        for level in (config, config.get("pretrained_cfg", {})):
            level.pop("hf_hub_filename", None)  # the weights are those that were checked
        return config

    def load_pickle(path: str | Path, *_: Any, **__: Any) -> Any:
        with open_regular(Path(path)) as file:
            return read_tensors(read_archive(file).payload)

    changed: list[tuple[Any, str, Any]] = [
        (hub, "load_cfg_from_json", read_config),
        (hub, "_torch_load", load_pickle),
        (_helpers, "_torch_load", load_pickle),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, value in changed:
            setattr(owner, name, value)
        yield metadata
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def read_hub_folder(spec: str) -> tuple[str, dict[str, Any]]:
    """Return the architecture and its arguments of `hf-hub:NAME` or `local-dir:FOLDER`.

    Call it within `checked_files`. Raises GtaError for a config that describes a larger network
    than the weights are of, and what timm and the hub raise.
    """
    where, _, place = spec.partition(":")
    if where == "hf-hub":
        _, name, kwargs = _hub.load_model_config_from_hf(place)
        _require_architecture(name, kwargs, spec)  # before the weights are downloaded
        state = _hub.load_state_dict_from_hf(place)
    else:
        folder = Path(place)
        _, name, kwargs = _hub.load_model_config_from_path(folder)
        _require_architecture(name, kwargs, spec)
        for file in folder.iterdir():
            if file.suffix in _hub._EXT_PRIORITY:
                check_regular(file)
        state = _hub.load_state_dict_from_path(folder)
    shapes = {key: tuple(value.shape) for key, value in state.items() if hasattr(value, "shape")}
    check_count(name, kwargs, shapes, spec)
    return name, dict(kwargs)


def _require_architecture(name: Any, kwargs: Mapping[str, Any], spec: str) -> None:
    if not isinstance(name, str):
        raise GtaError(f"{spec}: its config.json names no architecture")
    if not timm.is_model(name.split(".")[0]):
        raise GtaError(f"{spec}: its config.json names no architecture of timm, but {name[:60]!r}")
    check_architecture(name, kwargs, spec)
