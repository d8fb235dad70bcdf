"""The processes of a run: what they exchange beside the gradients, which are DDP's.

Two kinds of exchange, so that nothing waits for the device within a step: numbers of the host
(images read, a wish to stop) go over gloo, figures on the device over its own backend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from gtacli.errors import GtaError, PeerLost, exit_status
from gtacli.runtime.devices import widen
from gtacli.runtime.processes import claim_report, process_info

T = TypeVar("T")
# Longer than anything one process does while the others wait: a download, a large file to write.
TIMEOUT = timedelta(minutes=30)
_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """Those that share a run; alone, every exchange returns what it was given.

    Attributes:
        rank: this one's number; number 0 writes and prints.
        size: how many they are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def combine(self, images: int, stop: bool) -> tuple[int, bool]:
        """(images of all, whether any wants to stop). All wait here for each other."""
        if self.size == 1:
            return images, stop
        both = torch.tensor([images, stop])
        dist.all_reduce(both)
        return int(both[0]), bool(both[1])

    def weighted_sums(self, figures: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Means over this process's `images` as sums over the images of all (0-dim tensors on
        their device). Without images the figures count for nothing, finite or not."""
        named = {k: v.detach() for k, v in figures.items() if v.ndim == 0}
        if not named:
            return {}
        sums = widen(torch.stack([v.float() for v in named.values()])) * images
        if not images:
            sums = torch.zeros_like(sums)
        return dict(zip(named, self.all_reduce(sums).unbind(), strict=True))

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the device of `values`."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank, for everyone."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def run_on_main(self, make: Callable[[], T]) -> T:
        """What `make` gives process 0, for everyone; a GtaError of its is raised by everyone."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except GtaError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return cast(T, box[0])


ALONE = Processes()


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Meet the other processes that the launcher has started; nothing where there are none.

    Raises PeerLost when an exchange fails because another process has ended.
    """
    place = process_info()
    if place.size == 1:
        yield ALONE
        return
    # NCCL connects at its first use; a run on the CPU never does.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        yield Processes(place.rank, place.size)
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and (
            isinstance(error, dist.DistError) or _CONNECTION.search(str(error))
        )
        if not lost:
            # Before the others notice: their error is only that this process has gone.
            claim_report(exit_status(error))
        if backend == "gloo" and dist.is_initialized():  # NCCL's would wait for the others
            dist.destroy_process_group()
        if lost:
            raise PeerLost(
                "another process of this run has ended or does not answer; "
                "--resume goes on from the last saved state"
            ) from error
        raise
    dist.destroy_process_group()
