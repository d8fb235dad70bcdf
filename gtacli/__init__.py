"""Fine-tune vision transformers on few labels while they keep looking at the object.

The names below are stable. They are loaded on first use: importing `gtacli` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.cli.functions import (
        attention_map,
        calibrate,
        discover,
        embed,
        export,
        finetune,
        merge,
        predict,
        pretrain,
        probe_attention,
        probe_background,
        probe_fewshot,
        probe_knn,
        probe_linear,
        probe_retrieval,
        probe_robust,
        probe_transfer,
        segment,
    )
    from gtacli.discovery import normalized_cut
    from gtacli.models import attention, load_model
    from gtacli.registry import Registry
    from gtacli.regularizers.distance import attention_distance

    __version__: str
    api_version: str

__all__ = [
    "Registry",
    "__version__",
    "api_version",
    "attention",
    "attention_distance",
    "attention_map",
    "calibrate",
    "discover",
    "embed",
    "export",
    "finetune",
    "load_model",
    "merge",
    "normalized_cut",
    "predict",
    "pretrain",
    "probe_attention",
    "probe_background",
    "probe_fewshot",
    "probe_knn",
    "probe_linear",
    "probe_retrieval",
    "probe_robust",
    "probe_transfer",
    "segment",
]

_HOMES = {
    "load_model": "gtacli.models",
    "attention": "gtacli.models",
    "attention_distance": "gtacli.regularizers.distance",
    "normalized_cut": "gtacli.discovery",
    "Registry": "gtacli.registry",
}
_COMMANDS = "gtacli.cli.functions"  # home of all other names


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gtacli")
    if name == "api_version":
        from gtacli.runtime.versions import api_version

        return api_version()
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, _COMMANDS)), name)
    raise AttributeError(f"module 'gtacli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
