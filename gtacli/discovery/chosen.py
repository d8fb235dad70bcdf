"""Options that a back-end leaves to the network: its block and tau."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from gtacli.config.parts import LayerTauOptions
from gtacli.discovery.tokencut import is_dino
from gtacli.errors import UsageError
from gtacli.models.tap import Tap, absolute_layers

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel


def numbers(name: str, options: LayerTauOptions) -> tuple[int, float]:
    """Return layer and tau; raise UsageError if they are still "auto"."""
    if options.layer == "auto" or options.tau == "auto":
        raise UsageError(f"layer and tau of {name} are auto; make_backend chooses them")
    return options.layer, options.tau


def resolved(
    name: str,
    options: LayerTauOptions,
    model: LoadedModel,
    paper: Mapping[str, Any],
    key: tuple[object, ...],
    masks: Callable[[Sequence[Tap], float], Tensor],
) -> LayerTauOptions:
    """Replace "auto" by the paper's values for DINO's weights, else by calibrated values.

    Args:
        name: of the back-end.
        paper: the published values of options.
        key: what the masks depend on beside block and tau.
        masks: see `calibration.MaskMethod`.
    """
    auto = [option for option in paper if getattr(options, option) == "auto"]
    if is_dino(model):
        return options.model_copy(update={option: paper[option] for option in auto})
    chosen = [option for option in ("layer", "tau") if option in auto]
    if not chosen:
        return options
    from gtacli.discovery.calibration import TAUS, MaskMethod, cached_calibration

    free = options.layer == "auto"
    depth = len(cast(Any, model.model).blocks)
    layers = absolute_layers("all" if free else (cast(int, options.layer),), depth)
    taus = TAUS if options.tau == "auto" else (options.tau,)
    best = cached_calibration(model, MaskMethod(name, key, masks), layers, taus)
    return options.model_copy(update={option: getattr(best, option) for option in chosen})
