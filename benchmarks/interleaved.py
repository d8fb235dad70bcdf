"""Interleaved timing: variants take turns, so a busy machine slows all of them alike."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:  # it imports torch, which some benchmarks measure the absence of
    from gtacli.runtime.devices import Compute


class Ratio(TypedDict):
    """The median of the ratios of single repeats, and the interval in which it lies at 99 %."""

    median: float
    low: float
    high: float


@dataclass
class Timings:
    """The measurements of several variants.

    Attributes:
        wall: seconds of each repeat by variant.
        cpu: the same in CPU time of this process and of those that it waited for, which other
            processes disturb less.
        results: what the last repeat of each variant returned.
        on_cpu: all work is done by the CPU.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, object] = field(default_factory=dict)
    on_cpu: bool = True

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each variant."""
        return {name: statistics.median(seconds) for name, seconds in self.wall.items()}

    @property
    def own(self) -> dict[str, list[float]]:
        """Return the times to compare: of the CPU if it does all the work, else of the clock."""
        return self.cpu if self.on_cpu else self.wall

    def ratio(self, name: str, reference: str) -> Ratio:
        """Return the own time of a variant divided by that of another one."""
        return median_interval(ratios(self.own[name], self.own[reference]))


def time_interleaved(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    compute: Compute | None = None,
    warmup: int = 1,
    cold: Sequence[str] = (),
) -> Timings:
    """Run all variants in turn, `repeats` times after the warm-up rounds.

    The order rotates, so that no variant always follows the same one.

    Args:
        compute: the device to wait for.
        cold: variants without a warm-up.
    """
    names = list(variants)
    timings = Timings({name: [] for name in names}, {name: [] for name in names})
    timings.on_cpu = compute is None or compute.device.type == "cpu"

    def synchronize() -> None:
        if compute is not None:
            compute.synchronize()

    for repeat in range(repeats + warmup):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            if repeat < warmup and name in cold:
                continue
            synchronize()
            start, cpu = time.perf_counter(), cpu_seconds()
            timings.results[name] = variants[name]()
            synchronize()
            if repeat >= warmup:
                timings.wall[name].append(time.perf_counter() - start)
                timings.cpu[name].append(cpu_seconds() - cpu)
    return timings


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return `seconds` divided by `reference`, repeat by repeat."""
    return [a / b for a, b in zip(seconds, reference, strict=True)]


def median_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over the repeats of `seconds` divided by `reference`.

    The variants of one repeat run next to each other, so on a busy machine this is steadier than
    the ratio of the medians.
    """
    return statistics.median(ratios(seconds, reference))


def median_interval(values: Iterable[float]) -> Ratio:
    """Return the median of values, and the interval in which that of their distribution lies.

    The ends are order statistics, so nothing is assumed of the distribution: they enclose its
    median with a probability of 99 %, of seven values or fewer with that of the smallest and the
    largest one (98 % of seven, 94 % of five, 75 % of three).
    """
    from scipy.stats import binom

    ordered = sorted(values)
    ends = max(1, int(binom.ppf(0.005, len(ordered), 0.5)))
    low, high = ordered[ends - 1], ordered[-ends]
    middle = statistics.median(ordered)
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
