"""The classifier's score of one class per image, which maps of a class explain."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models import timm_blocks

TargetClass = int | Literal["predicted"]
"""The number of a class, or each image's predicted one."""


def check_classifier(
    model: nn.Module,
    target: TargetClass,
    kind: str,
    option: str = "kind",
    class_option: str = "target_class",
    hint: str = "choose another kind of map",
) -> None:
    """Raise UsageError unless the model has a classifier with the class `target`.

    Args:
        kind: name of the map that needs it.
        option, class_option: the options that are to be changed.
        hint: says what to do without a classifier.
    """
    m = cast(Any, model)
    if m.num_classes == 0 or isinstance(m.head, nn.Identity):
        raise UsageError(
            f"{kind} needs a classifier, and this model has none; {hint}", option=option
        )
    if target != "predicted" and not 0 <= target < m.num_classes:
        raise UsageError(
            f"there is no class {target}; this model has {m.num_classes}, numbered from 0",
            option=class_option,
        )


def class_scores(logits_BK: Tensor, target: TargetClass) -> Tensor:
    """Return each image's logit (B,) of the class."""
    if target == "predicted":
        return logits_BK.gather(1, logits_BK.argmax(1, keepdim=True))[:, 0]
    return logits_BK[:, target]


def classify_tokens(model: nn.Module, tokens: Tensor, ropes: Any, start: int = 0) -> Tensor:
    """Return the class logits of tokens (B, P+N, C) that enter block `start`; see `embed`.

    Attention is fused and nothing is checkpointed, whatever the model is set to.
    """
    m = cast(Any, model)
    for i in range(start, len(m.blocks)):
        rope = None if ropes is None else ropes[i]
        tokens, _ = timm_blocks.tapped_block(m.blocks[i], tokens, rope, None)
    return timm_blocks.classify(m, m.norm(tokens), None)
