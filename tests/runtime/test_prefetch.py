"""Tests of items that a thread reads ahead of their consumer."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.prefetch import ahead_in_blocks, read_ahead


@given(st.lists(st.integers(0, 9)), st.integers(1, 4), st.integers(1, 12))
def test_the_order_stays(sizes: list[int], most: int, most_bytes: int) -> None:
    assert list(read_ahead(sizes, most, most_bytes, lambda size: size)) == sizes


def test_no_more_is_read_than_may_wait() -> None:
    given: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            given.append(number)
            yield number

    for most, most_bytes, waiting in ((5, 1000, 5), (50, 30, 3)):
        given.clear()
        ahead = read_ahead(items(), most, most_bytes, lambda item: 10)
        next(ahead)
        deadline = time.monotonic() + 10
        while len(given) < waiting + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(given) == waiting + 2  # one was taken, and one is at hand
        ahead.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_what_was_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("of an item")

    ahead = read_ahead(items(), 4, 4, lambda item: 1)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="of an item"):
        next(ahead)


def test_a_stop_does_not_wait_for_the_next_item() -> None:
    hold = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        hold.wait(60)
        yield 2

    with StopSignal():
        ahead = read_ahead(items(), 4, 4, lambda item: 1)
        assert next(ahead) == 1
        signal.raise_signal(signal.SIGTERM)
        start = time.monotonic()
        assert list(ahead) == []
        assert time.monotonic() - start < 30
    hold.set()


@pytest.mark.parametrize("threads", [None, 0, 3])
@pytest.mark.parametrize("count", [0, 1, 256, 1000])
def test_in_blocks_results_are_in_order(threads: int | None, count: int) -> None:
    assert [*ahead_in_blocks(str, range(count), threads)] == [*map(str, range(count))]
