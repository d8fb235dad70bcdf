"""Interleaved timing: variants take turns, so a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gtacli.runtime.devices import Compute


@dataclass
class Timings:
    """The measurements of several variants.

    Attributes:
        wall: seconds of each repeat by variant.
        cpu: the same in CPU time of this process, which other processes disturb less.
        results: what the last repeat of each variant returned.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, object] = field(default_factory=dict)

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each variant."""
        return {name: statistics.median(seconds) for name, seconds in self.wall.items()}


def time_interleaved(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    compute: Compute,
    warmup: int = 1,
    cold: Sequence[str] = (),
) -> Timings:
    """Run all variants in turn, `repeats` times after the warm-up rounds.

    The order rotates, so that no variant always follows the same one.

    Args:
        cold: variants without a warm-up.
    """
    names = list(variants)
    timings = Timings({name: [] for name in names}, {name: [] for name in names})
    for repeat in range(repeats + warmup):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            if repeat < warmup and name in cold:
                continue
            compute.synchronize()
            start, cpu = time.perf_counter(), time.process_time()
            timings.results[name] = variants[name]()
            compute.synchronize()
            if repeat >= warmup:
                timings.wall[name].append(time.perf_counter() - start)
                timings.cpu[name].append(time.process_time() - cpu)
    return timings


def median_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over the repeats of `seconds` divided by `reference`.

    The variants of one repeat run next to each other, so on a busy machine this is steadier than
    the ratio of the medians.
    """
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))
