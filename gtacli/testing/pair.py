"""A training step of a regularizer in two processes that share their gradients."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gtacli.testing.promises import BrokenPromise, NotApplicable, describe

SECONDS = 120
"""Time for both processes, of which most is the import of torch."""


def gradients_of_two(part: Any, given: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Return the gradients that each of two new processes has after a step on its own images.

    Raises BrokenPromise if one fails or they wait for each other for ever, NotApplicable where
    the class cannot be named in another process.
    """
    try:
        pickle.dumps(part)
    except (pickle.PicklingError, AttributeError) as error:
        raise NotApplicable(f"another process cannot import it: {describe(error)}") from error
    if not torch.distributed.is_available():
        raise NotApplicable("this torch has no torch.distributed")
    context = _context()
    with tempfile.TemporaryDirectory() as folder, _without_current_folder():
        answers = context.Queue()
        meeting = str(Path(folder) / "store")
        processes = [
            context.Process(
                target=_answer, args=(rank, part, dict(given), meeting, sys.path, answers)
            )
            for rank in range(2)
        ]
        try:
            for process in processes:
                process.start()
            found = _collect(answers, processes)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
    for answer in found.values():
        if isinstance(answer, str):
            raise BrokenPromise(f"one of two processes raises {answer}")
    return [{n: torch.tensor(v) for n, v in found[rank].items()} for rank in range(2)]


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Let new interpreters import nothing from the current folder, which may be anybody's."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _context() -> Any:
    """Return how processes start: from a server that has imported torch, once, if there can be one.

    A fork of this process would not survive the threads that torch may have started here.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gtacli.testing.step"])
    return context


def _collect(answers: Any, processes: list[Any]) -> dict[int, Any]:
    """Return the answer of each process by its rank; one failure is enough."""
    found: dict[int, Any] = {}
    end = time.monotonic() + SECONDS
    while len(found) < 2 and not any(isinstance(answer, str) for answer in found.values()):
        if time.monotonic() > end:
            raise BrokenPromise(f"two processes do not finish a step within {SECONDS} s")
        alive = any(process.is_alive() for process in processes)
        with suppress(queue.Empty):
            rank, answer = answers.get(timeout=0.5)
            found[rank] = answer
            continue
        if not alive:
            raise BrokenPromise("a process ends without a result")
    return found


def _answer(
    rank: int, part: Any, given: dict[str, Any], meeting: str, path: list[str], answers: Any
) -> None:
    """Put the gradients of this process into a queue, or the text of its error."""
    sys.path[:] = path
    try:
        answers.put((rank, {n: g.tolist() for n, g in rank_gradients(rank, part, given, meeting)}))
    except BaseException as error:
        answers.put((rank, describe(error)))


def rank_gradients(
    rank: int, part: Any, given: Mapping[str, Any], meeting: str
) -> list[tuple[str, Tensor]]:
    """Take a step as process `rank` of two and return the gradients of the backbone.

    Args:
        meeting: a file in which the processes find each other.
    """
    from gtacli.models.tap import Request, TappedViT
    from gtacli.regularizers.base import StepOutputs
    from gtacli.testing.inputs import drawn_images, drawn_labels
    from gtacli.testing.step import Step

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{meeting}", timedelta(seconds=SECONDS), world_size=2, rank=rank
    )
    try:
        step = Step(part, given)
        needs = step.part.needs
        ddp = DistributedDataParallel(TappedViT(step.target, Request() | needs.target))
        images = drawn_images(4, seed=rank)
        outputs = ddp.module.unpack(ddp(images), images.shape)
        source = step.outputs(images).source
        labels = drawn_labels()
        penalty = step.part.penalty(StepOutputs(outputs, source, labels))
        loss = F.cross_entropy(outputs.logits, labels) + penalty
        loss.backward()
        named = step.target.named_parameters()
        return [(n, p.grad.clone()) for n, p in named if p.grad is not None]
    finally:
        torch.distributed.destroy_process_group()
