"""The features that a classifier reads: the CLS token, the mean of the patches, or both.

    cls       the CLS token                                               (B, C)
    mean      the mean of the patches, without registers                  (B, C)
    cls+mean  one after the other, as in DINOv2's linear evaluation       (B, 2C)
              (Oquab et al., arXiv 2304.07193)

of the tokens after the final norm. A model that normalizes after pooling (timm's `fc_norm`) goes on
doing so. The first two are timm's own poolings, so that arguments of `timm.create_model` describe
them. timm has none for both: such a model is of a class of its own, and the header of its weights
says so (`pool`, see `card`).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models.card import BOTH
from gtacli.models.tap import has_cls

ClassifierPool = Literal["cls", "mean", "cls+mean"]
ARGUMENTS = ("global_pool", "fc_norm", "use_fc_norm", "pool_include_prefix")
"""Arguments of `timm.create_model` that determine what the classifier reads."""
_TIMM = {"cls": "token", "mean": "avg"}
_OURS = {theirs: ours for ours, theirs in _TIMM.items()}


class _ClsAndMean(nn.Module):
    """A ViT whose classifier reads the CLS token and the mean of the patches, (B, 2C)."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the classifier's input, of the final tokens (B, P+N, C)."""
        m = cast(Any, self)
        parts = x[:, 0], x[:, m.num_prefix_tokens :].mean(1)
        features = m.head_drop(torch.cat([m.fc_norm(part) for part in parts], -1))
        return cast(Tensor, features if pre_logits else m.head(features))


class ViTClsAndMean(_ClsAndMean, VisionTransformer):
    """A `VisionTransformer` whose classifier reads both, (B, 2C)."""


class EvaClsAndMean(_ClsAndMean, Eva):
    """An `Eva` whose classifier reads both, (B, 2C)."""


def reads_both(model: nn.Module) -> bool:
    """Return whether the classifier reads the CLS token and the mean of the patches."""
    return isinstance(model, _ClsAndMean)


def name_pool(model: nn.Module) -> str:
    """Return what the classifier reads: `cls`, `mean`, `cls+mean`, or timm's name of another."""
    if reads_both(model):
        return BOTH
    theirs = str(getattr(model, "global_pool", ""))
    if theirs == "avg" and getattr(model, "pool_include_prefix", False):
        return "mean of all tokens"
    return _OURS.get(theirs, theirs)


def set_pool(model: nn.Module, pool: ClassifierPool) -> dict[str, Any]:
    """Let the classifier of a model of timm read other features, in place.

    Where they are wider, the classifier is a new, random one.

    Returns: the arguments of `timm.create_model` that give the same model, beside its own ones;
        none for `cls+mean`, or where nothing changes.

    Raises UsageError (option "pool") for a model that cannot read them.
    """
    m = cast(Any, model)
    _check(model, pool)
    if pool == name_pool(model):
        return {}
    if pool == BOTH:
        m.__class__ = EvaClsAndMean if isinstance(model, Eva) else ViTClsAndMean
        m.num_features = m.head_hidden_size = 2 * m.embed_dim
        if m.num_classes:
            m.head = nn.Linear(2 * m.embed_dim, m.num_classes)
        return {}
    m.global_pool = _TIMM[pool]
    # Without it timm would move the norm behind the mean.
    norm = "use_fc_norm" if isinstance(model, Eva) else "fc_norm"
    arguments = {"global_pool": m.global_pool, norm: not isinstance(m.fc_norm, nn.Identity)}
    if getattr(m, "pool_include_prefix", False):
        m.pool_include_prefix = arguments["pool_include_prefix"] = False
    return arguments


def _check(model: nn.Module, pool: ClassifierPool) -> None:
    """Raise UsageError (option "pool") for a model that cannot read these features."""
    reason = None
    if isinstance(model, VisionTransformerDistilled):
        reason = "this model averages two classifiers, on two tokens; leave `pool` out"
    elif getattr(model, "attn_pool", None) is not None:
        reason = "this model pools by attention, with weights of its own; leave `pool` out"
    elif pool != "mean" and not has_cls(model):
        reason = "this model has no CLS token; use `pool=mean`"
    if reason is not None:
        raise UsageError(reason, option="pool")
