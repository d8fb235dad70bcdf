"""The configs of the commands by name, imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from gtacli.config.base import did_you_mean
from gtacli.config.common import CommonConfig
from gtacli.errors import UsageError

_CONFIGS: Mapping[str, str] = MappingProxyType(
    {
        "finetune": "finetune:FinetuneConfig",
        "pretrain": "pretrain:PretrainConfig",
        "segment": "segment:SegmentConfig",
        "discover": "discover:DiscoverConfig",
        "probe attention": "probe.attention:AttentionProbeConfig",
        "probe background": "probe.background:BackgroundProbeConfig",
        "probe fewshot": "probe.fewshot:FewshotProbeConfig",
        "probe knn": "probe.knn:KnnProbeConfig",
        "probe linear": "probe.linear:LinearProbeConfig",
        "probe retrieval": "probe.retrieval:RetrievalProbeConfig",
        "probe robust": "probe.robust:RobustProbeConfig",
        "probe transfer": "probe.transfer:TransferProbeConfig",
    }
)
COMMANDS = tuple(_CONFIGS)
"""The commands that write a folder and print one result at their end."""
WITHOUT_LABELS = frozenset(
    {"pretrain", "segment", "discover", "probe attention", "probe background"}
)
"""Those among them that also read images without labels."""


def config_of(command: str, source: str | None = None) -> type[CommonConfig]:
    """Return the class of a command's config.

    Args:
        command: its name ("probe knn").
        source: the file that names it, for the error.

    Raises UsageError for an unknown command.
    """
    if command not in _CONFIGS:
        hint = did_you_mean(command, _CONFIGS) or ";"
        text = f"unknown command '{command}'{hint} known: {', '.join(_CONFIGS)}"
        raise UsageError(text, option="command", source=source)
    module, _, name = _CONFIGS[command].partition(":")
    kind: type[CommonConfig] = getattr(importlib.import_module(f"gtacli.config.{module}"), name)
    return kind
