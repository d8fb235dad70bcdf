"""Exchange between the processes of a run, apart from the gradients, which DDP exchanges.

Numbers of the host (images read, a request to stop) go over gloo, and tensors over the backend of
their device, so that no exchange makes the host wait for the device within a step.
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
from gtacli.runtime.interrupts import end_on_sigterm
from gtacli.runtime.processes import (
    ProcessInfo,
    claim_report,
    end_with_launcher,
    launcher_folder,
    process_info,
)

T = TypeVar("T")
# Longer than anything that one process does while others wait: a download, writing a large file.
TIMEOUT = timedelta(minutes=30)
_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """The processes of a run; every method must be called by all of them.

    In a single process each exchange returns what it was given.

    Attributes:
        rank: of this process; process 0 writes and prints.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def combine(self, images: int, stop: bool) -> tuple[int, bool]:
        """Return the sum of `images` and whether any process requests to stop."""
        if self.size == 1:
            return images, stop
        both = torch.tensor([images, stop])
        dist.all_reduce(both)
        return int(both[0]), bool(both[1])

    def weighted_sums(self, metrics: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Return the sums over all images of metrics that are means over `images` of this process.

        0-dim tensors on their device. Without images a process adds zero, even if a mean is NaN.
        """
        named = {k: v.detach() for k, v in metrics.items() if v.ndim == 0}
        if not named:
            return {}
        sums = widen(torch.stack([v.float() for v in named.values()])) * images
        if not images:
            sums = torch.zeros_like(sums)
        return dict(zip(named, self.all_reduce(sums).unbind(), strict=True))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes, in place, on their device."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def run_on_main(self, function: Callable[[], T]) -> T:
        """Call `function` in process 0; return its result, or raise its GtaError, in all."""
        if self.size == 1:
            return function()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = function()
            except GtaError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return cast(T, box[0])


ALONE = Processes()


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Connect to the other processes that the launcher has started, if there are any.

    Raises PeerLost when an exchange fails because another process has ended.
    """
    info = process_info()
    if info.size == 1:
        yield ALONE
        return
    # NCCL connects at its first use; a run on the CPU never does.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        end_with_launcher()
        with end_on_sigterm():  # the others may never come
            dist.init_process_group(backend, timeout=TIMEOUT, **_meeting_place(info))
        yield Processes(info.rank, info.size)
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and (
            isinstance(error, dist.DistError) or _CONNECTION.search(str(error))
        )
        if not lost:
            # Before the others notice: their error is only that this process has ended.
            claim_report(exit_status(error))
        if backend == "gloo" and dist.is_initialized():  # NCCL's would wait for the others
            dist.destroy_process_group()
        if lost:
            raise PeerLost(
                "another process of this run has ended or does not answer; "
                "`resume` continues from the last saved state"
            ) from error
        raise
    dist.destroy_process_group()


def _meeting_place(info: ProcessInfo) -> dict[str, Any]:
    """Return the arguments by which `init_process_group` finds the other processes.

    Processes of `launch` meet in a file of its private folder, without a port; torchrun's find its
    store by the environment.
    """
    folder = launcher_folder()
    if folder is None:
        return {}
    store = dist.FileStore(str(folder / "store"))  # type: ignore[attr-defined]
    store.set_timeout(TIMEOUT)
    return {"store": store, "rank": info.rank, "world_size": info.size}
