"""Create a discovery back-end by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gtacli.config.base import build
from gtacli.discovery.base import Discovery
from gtacli.models.loading import LoadedModel
from gtacli.registry import DISCOVERY


def make_backend(name: str, options: Mapping[str, Any], model: LoadedModel) -> Discovery[Any]:
    """Create the back-end `name` of the registry for a model, which is frozen.

    Raises UsageError for an unknown name, invalid options, or an unsupported model.
    """
    part = DISCOVERY.load(name)
    network = model.model.eval().requires_grad_(False)
    validated = build(part.Options, options, f"discovery.{name}")
    return part(part.resolve(validated, model), network)
