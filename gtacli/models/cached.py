"""Timm's weights from the caches of the hub and of torch alone, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from huggingface_hub import constants
from timm.models import _hub


@contextmanager
def cached_only() -> Iterator[None]:
    """Let timm find only files that are in the caches; others raise FileNotFoundError.

    No host is asked for anything.
    """
    hub: Any = _hub
    changed: list[tuple[Any, str, Any]] = [
        (hub, "hf_hub_download", partial(hub.hf_hub_download, local_files_only=True)),
        # With local_files_only the hub's client still asks the hub for a list of coding agents.
        (constants, "HF_HUB_DISABLE_TELEMETRY", True),
        (hub, "download_url_to_file", _refuse),  # of .npz
        (torch.hub, "download_url_to_file", _refuse),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, value in changed:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def _refuse(url: str, *_: Any, **__: Any) -> NoReturn:
    raise FileNotFoundError(f"{url} is not in the cache")
