"""A discovery back-end by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gtacli.config.base import build
from gtacli.discovery.base import Discovery
from gtacli.models.loading import LoadedModel
from gtacli.registry import DISCOVERY


def make_backend(name: str, options: Mapping[str, Any], model: LoadedModel) -> Discovery[Any]:
    """The back-end `name` of the registry, on a frozen model.

    Raises UsageError for an unknown name, unfit options, or a model that it cannot read.
    """
    part = DISCOVERY.load(name)
    network = model.model.eval().requires_grad_(False)
    asked = build(part.Options, options, f"discovery.{name}")
    return part(part.resolve(asked, model), network)
