"""Tests of random orders without a table."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtacli.data.streams import permutation as module
from gtacli.data.streams.permutation import Permutation, permutation


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.booleans())
def test_every_number_comes_once(count: int, seed: int, number: int, table: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not table:
            patch.setattr(module, "_TABLE", 0)
        order = Permutation(count, seed, number)
        assert sorted(order[place] for place in range(count)) == list(range(count))
        again = Permutation(count, seed, number)
        assert [order[i] for i in range(count)] == [again[i] for i in range(count)]


def test_a_billion_numbers_take_no_memory() -> None:
    order = permutation(10**9, 0, 7)
    found = [order[place] for place in range(2000)]
    assert len(set(found)) == 2000
    assert all(0 <= number < 10**9 for number in found)
    # Neither near each other nor in a part of the range.
    assert sum(abs(a - b) > 10**8 for a, b in itertools.pairwise(found)) > 1400
    assert all(count > 130 for count in Counter(n // 10**8 for n in found).values())
    with pytest.raises(IndexError):
        order[10**9]


def test_seeds_give_other_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (1 << 17, 0):
        monkeypatch.setattr(module, "_TABLE", table)
        orders = {tuple(Permutation(40, *seed)) for seed in ((0, 0), (0, 1), (1, 0), (-1, 0))}
        assert len(orders) == 4


def test_all_orders_of_few_numbers_are_as_likely() -> None:
    counts = Counter(tuple(Permutation(4, seed, 0)) for seed in range(2400))
    assert len(counts) == 24
    assert max(counts.values()) < 150
    assert min(counts.values()) > 60
