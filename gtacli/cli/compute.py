"""The device of a command that does not train, and its random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtacli.config.common import CommonConfig
    from gtacli.runtime.devices import Compute


def start_compute(config: CommonConfig) -> Compute:
    """Return the device to compute on; seed what draws numbers, such as weights of `ARCH@none`.

    Raises UsageError as `choose_compute`.
    """
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.rng import seed_everything

    compute = choose_compute(config.device, config.precision)
    seed_everything(config.seed)
    return compute
