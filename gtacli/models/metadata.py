"""The metadata in the header of a weights file."""

from __future__ import annotations

import json

from gtacli.models.card import BOTH
from gtacli.models.loading import LoadedModel
from gtacli.models.pooling import reads_both


def model_metadata(
    model: LoadedModel, classes: tuple[str, ...], test_size: tuple[int, int] | None = None
) -> dict[str, str]:
    """Return the header of model.safetensors, from which `load_model` restores the model.

    Args:
        test_size: (h, w) at which the model is used, if it is not its own.
    """
    return {
        "format": "pt",
        "architecture": model.architecture,
        "kwargs": json.dumps(dict(model.kwargs or {})),
        "num_classes": str(len(classes)),
        "classes": json.dumps(list(classes)),
        "image_size": json.dumps(list(model.image_size)),
        **({"test_size": json.dumps(list(test_size))} if test_size else {}),
        "mean": json.dumps(list(model.mean)),
        "std": json.dumps(list(model.std)),
        "interpolation": model.interpolation,
        "crop_pct": str(model.crop_pct),
        **({"pool": BOTH} if reads_both(model.model) else {}),
        **({"multi_label": "true"} if model.multi_label else {}),
    }
