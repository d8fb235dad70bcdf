"""Interleaved timing: what takes turns, whose time counts, and the interval of a median."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

SECONDS = st.floats(0.01, 100)


@given(st.lists(SECONDS, min_size=8, max_size=40))
def test_the_interval_is_scipys(interleaved: ModuleType, values: list[float]) -> None:
    ours = interleaved.median_interval(values)
    theirs = quantile_test(values, q=0.0, p=0.5).confidence_interval(0.99)
    assert (ours["low"], ours["high"]) == pytest.approx(theirs, abs=1e-4)


@given(st.lists(SECONDS, min_size=1, max_size=7))
def test_few_values_are_enclosed(interleaved: ModuleType, values: list[float]) -> None:
    found = interleaved.median_interval(values)
    assert (found["low"], found["high"]) == pytest.approx((min(values), max(values)), abs=1e-4)


def test_variants_take_turns_after_the_warm_up(interleaved: ModuleType) -> None:
    ran: list[str] = []
    timings = interleaved.time_interleaved(
        {name: lambda name=name: ran.append(name) for name in "abc"}, repeats=2, cold="c"
    )
    assert "".join(ran) == "ab" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in timings.cpu.items()} == dict.fromkeys("abc", 2)


def test_processes_that_were_waited_for_count(interleaved: ModuleType) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"

    def wait() -> None:
        subprocess.run([sys.executable, "-S", "-c", busy], check=True)

    timings = interleaved.time_interleaved({"wait": wait}, repeats=1, warmup=0)
    assert timings.cpu["wait"][0] >= 0.29


def test_a_ratio_is_of_cpu_time_where_the_cpu_works(interleaved: ModuleType) -> None:
    timings = interleaved.Timings(
        wall={"a": [4.0, 4.0, 4.0], "b": [1.0, 1.0, 1.0]},
        cpu={"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]},
    )
    assert timings.ratio("a", "b") == {"median": 2, "low": 1, "high": 3}
    timings.on_cpu = False
    assert math.isclose(timings.ratio("a", "b")["median"], 4)
