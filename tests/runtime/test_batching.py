"""Tests of batch sizes on CPUs and GPUs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gtacli.runtime.batching import (
    CHUNK,
    CHUNK_PATCHES,
    MANY_PATCHES,
    chunk_size,
    chunks,
    fits_one_core,
)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_chunks_keep_the_order_and_the_size(items: list[int], size: int) -> None:
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(1 <= len(part) <= size for part in parts)


def test_chunks_are_read_lazily() -> None:
    taken: list[int] = []
    parts = chunks((taken.append(i) or i for i in range(100)), 4)  # type: ignore[func-returns-value]
    next(parts)
    assert taken == [0, 1, 2, 3]


@given(st.integers(1, 64), st.integers(1, 20_000))
def test_a_chunk_has_a_bounded_number_of_patches(batch_size: int, patches: int) -> None:
    size = chunk_size(batch_size, patches)
    assert 1 <= size <= min(batch_size, CHUNK)
    assert size == 1 or size * patches <= CHUNK_PATCHES


def test_large_images_and_gpus_do_not_fit_one_core() -> None:
    assert fits_one_core(True, 196, None)
    assert not fits_one_core(True, MANY_PATCHES, None)
    assert not fits_one_core(False, 196, None)
    assert not fits_one_core(True, 196, 0)
