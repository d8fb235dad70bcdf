"""The stream: order, failures, batches, stopping, both ways of working."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest
import torch

from gtacli.errors import RunError
from gtacli.images.decode import ImageError
from gtacli.inference.stream import Failure, map_ahead, stream

WAYS = [{"threads": 0}, {"threads": 3}, {"threads": 3, "per_core": True}]


def read(item: int) -> int:
    if item % 5 == 3:
        raise ImageError(f"cannot read {item}")
    return item


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("finish", [None, str])
def test_order_is_kept_and_failures_are_yielded(way: dict[str, int], finish: type[str]) -> None:
    batches = []

    def run(views: list[int]) -> list[int]:
        batches.append(views)
        return [-view for view in views]

    results = [*stream(range(20), read, run, 4, finish=finish, **way)]  # type: ignore[arg-type]
    shown = finish or int
    assert results == [
        Failure(str(i), f"cannot read {i}") if i % 5 == 3 else shown(-i) for i in range(20)
    ]
    # Failures count towards a batch: which images share one does not depend on the way.
    assert sorted(batches)[0] == [0, 1, 2]
    assert len(batches) == 5


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_without_a_readable_image_is_not_run(way: dict[str, int]) -> None:
    def run(views: list[int]) -> list[int]:
        raise AssertionError("nothing to run")

    assert [*stream([3, 8], read, run, 2, **way)] == [  # type: ignore[arg-type]
        Failure("3", "cannot read 3"),
        Failure("8", "cannot read 8"),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_items_that_failed_before_and_failures_at_the_end(way: dict[str, int]) -> None:
    def finish(view: int) -> int:
        if view == 2:
            raise ImageError("the file has changed")
        return view

    items = [Failure("first.png", "given twice"), 1, 2]
    found = stream(items, read, list, 2, finish=finish, name=lambda i: f"{i}.png", **way)  # type: ignore[arg-type]
    assert [*found] == [items[0], 1, Failure("2.png", "the file has changed")]


@pytest.mark.parametrize("way", WAYS)
def test_other_errors_end_the_stream(way: dict[str, int]) -> None:
    def run(views: list[int]) -> list[int]:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="full"):
        next(stream(count(), read, run, 2, **way))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_an_endless_stream_is_read_as_it_is_needed(way: dict[str, int]) -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in count():
            taken.append(i)
            yield i

    results = stream(items(), read, list, 2, **way)  # type: ignore[arg-type]
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) < 40
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS)
def test_after_a_stop_every_finished_image_is_yielded(way: dict[str, int]) -> None:
    stop, written, lock = threading.Event(), [], threading.Lock()

    def run(views: list[int]) -> list[int]:
        if views[0] >= 8:
            stop.set()
        return views

    def finish(view: int) -> int:
        with lock:
            written.append(view)
        return view

    results = stream(count(step=2), abs, run, 2, finish=finish, stop=stop.is_set, **way)  # type: ignore[arg-type]
    found = [*results]
    assert found == sorted(written)
    assert 8 in found
    assert len(found) < 60


def test_torch_has_one_thread_while_each_core_works_alone() -> None:
    before = torch.get_num_threads()
    run_with = []

    def run(views: list[int]) -> list[int]:
        run_with.append(torch.get_num_threads())
        return views

    assert len([*stream(range(9), abs, run, 2, threads=2, per_core=True)]) == 9
    assert set(run_with) == {1}
    assert torch.get_num_threads() == before


def test_map_ahead_yields_failures_in_order() -> None:
    assert [*map_ahead(range(2, 5), read, 8, 2)] == [2, Failure("3", "cannot read 3"), 4]
