"""The folder with all files of one run, each written atomically (see `run_files`)."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gtacli.errors import GtaError, RunError, UsageError
from gtacli.runtime.atomic import replace_atomic, to_json
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.drafts import content
from gtacli.runtime.ownership import create_first, owned
from gtacli.runtime.run_files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    BEFORE_TRAINING,
    FILES,
    FOLDERS,
    PREVIOUS_STATE_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
)
from gtacli.runtime.state_file import read_state_file, write_state_file
from gtacli.runtime.strict_json import read_json, reason_of
from gtacli.runtime.tensor_file import write_tensor_file
from gtacli.runtime.tensor_parts import gather_whole

log = logging.getLogger(__name__)


def default_out(command: str, dry: bool = False) -> Path:
    """Create runs/COMMAND-DATE-TIME, with a number appended if that exists already.

    Args:
        dry: return the path only.
    """
    stem = f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    paths = [Path("runs") / name for name in (stem, *(f"{stem}-{i}" for i in range(2, 1000)))]
    return next(p for p in paths if not os.path.exists(p)) if dry else create_first(paths)


class RunFolder:
    """The folder of one run.

    Process 0 reads and writes, on its node; all processes make the same calls, get what it read,
    and raise the errors that it met.

    Args:
        path: the folder, created at the first write.
        dry: write nothing.
        processes: the processes of the run.

    Attributes:
        origin: JSON of what the run is trained with and on; every state that is written has it.
    """

    def __init__(self, path: Path, dry: bool = False, processes: Processes = ALONE) -> None:
        self.path = path
        self.dry = dry
        self.processes = processes
        self.origin = "{}"

    def subfolder(self, name: str) -> RunFolder:
        """Return a folder within this one, for a run that is part of this run."""
        part = RunFolder(self.path / name, self.dry, self.processes)
        part.origin = self.origin
        return part

    @contextmanager
    def owned(self, command: str, option: str = "out") -> Iterator[None]:
        """Let no other process write into the folder inside; see `gtacli.runtime.ownership`.

        The first process holds the lock. Nobody does in a dry run.

        Raises UsageError if another process owns the folder.
        """
        with ExitStack() as stack:
            if not self.dry:
                lock = owned(self.path, command, option=option)
                self.processes.run_on_main(lambda: stack.enter_context(lock))
            yield

    def is_unused(self) -> bool:
        """Return whether the folder exists and has no content."""
        return os.path.isdir(self.path) and not content(p.name for p in self.path.iterdir())

    def check_free(self, overwrite: bool, resumable: bool = True) -> None:
        """Raise UsageError unless the folder is unused, or holds an earlier run to overwrite.

        A folder with nothing that was trained is free: that run failed before its first epoch.
        """
        if os.path.isfile(self.path):
            raise UsageError(f"{self.path} is a file", option="out")
        names = (p.name for p in self.path.iterdir()) if os.path.isdir(self.path) else ()
        if content(names) <= BEFORE_TRAINING:
            return
        if not overwrite:
            choose = "choose another folder" + (
                ", `overwrite`, or `resume` to continue its run" if resumable else " or `overwrite`"
            )
            raise UsageError(f"{self.path} is not empty; {choose}", option="out")
        if not os.path.isfile(self.path / "run.json"):
            text = f"{self.path} holds no earlier run, so it is not overwritten"
            raise UsageError(text, option="out")

    def clear(self) -> None:
        """Remove the files of an earlier run and nothing else."""
        if self.processes.is_main and not self.dry:
            for name in FOLDERS:
                self.remove(name)
            # The record last: without it, what is left would be nobody's.
            for name in reversed(FILES):
                (self.path / name).unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Remove a folder that the run has written."""
        if self.processes.is_main and not self.dry:
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def copy_progress(self, other: RunFolder) -> None:
        """Copy metrics, weights, adapters and state of another run; the state comes last."""
        adapters = [name for name in (ADAPTER_FILE, ADAPTER_CONFIG_FILE) if other.has(name)]
        for name in ("metrics.jsonl", WEIGHTS_FILE, *adapters, STATE_FILE):
            self.write(name, partial(shutil.copyfile, other.path / name))

    def write(
        self, name: str, write: Callable[[Path], object], previous: str | None = None
    ) -> None:
        """Let `write` fill a file, atomically; the file before it is renamed to `previous`."""
        if not self.dry:
            self.processes.run_on_main(lambda: self._write(name, write, previous))

    def _write(
        self, name: str, write: Callable[[Path], object], previous: str | None = None
    ) -> None:
        before = None if previous is None else self.path / previous
        try:
            replace_atomic(self.path / name, write, sync=True, previous=before)
        except (OSError, RuntimeError) as e:  # torch has its own for a full disk
            # Before the first step the user's input is wrong; later the run has failed.
            kind = GtaError if name in ("run.json", "split.json") else RunError
            raise kind(f"cannot write {self.path / name} ({_reason(e)})", option="out") from e

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `value` as indented JSON."""
        text = to_json(value, indent=1) + "\n"
        self.write(name, lambda p: p.write_text(text, encoding="utf-8"))

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics.jsonl, one line per row."""
        text = "".join(to_json(row) + "\n" for row in rows)
        self.write("metrics.jsonl", lambda p: p.write_text(text, encoding="utf-8"))

    def write_model(
        self, model: torch.nn.Module, metadata: Mapping[str, str], name: str = WEIGHTS_FILE
    ) -> None:
        """Write the model's weights as safetensors."""
        self.write_tensors(model.state_dict(), metadata, name)

    def write_tensors(
        self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], name: str
    ) -> None:
        """Write tensors as safetensors; those that processes share are gathered before."""
        if not self.dry:
            whole = gather_whole(tensors, self.processes.is_main)
            self.write(name, lambda path: write_tensor_file(path, whole, metadata))

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write state.pt; the state before it stays under another name.

        Tensors that processes share are gathered in the first one: a state does not depend on
        their number.
        """
        if not self.dry:
            whole = gather_whole({**state, "origin": self.origin}, self.processes.is_main)
            self.write(STATE_FILE, lambda path: write_state_file(path, whole), PREVIOUS_STATE_FILE)

    def remove_previous_state(self) -> None:
        """Remove the state before the newest, which a finished run does not need."""
        if self.processes.is_main and not self.dry:
            (self.path / PREVIOUS_STATE_FILE).unlink(missing_ok=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object. Raises GtaError for a missing or damaged file."""
        return self.processes.run_on_main(lambda: self._read_json(name))

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value = read_json(self.path / name)
        except (OSError, ValueError) as e:
            text = f"{self.path / name} cannot be read ({reason_of(e)})"
            raise GtaError(f"{text}; is {self.path} a run folder?") from e
        if not isinstance(value, dict):
            raise GtaError(f"{self.path / name} is not a JSON object")
        return value

    def has(self, name: str) -> bool:
        """Return whether the folder has this file."""
        return self.processes.run_on_main((self.path / name).is_file)

    def has_state(self) -> bool:
        """Return whether the run can be continued from a state."""
        return self.has(STATE_FILE) or self.has(PREVIOUS_STATE_FILE)

    def read_state(self) -> dict[str, Any]:
        """Read the state of an interrupted run, or the one before it if the newest is damaged.

        Raises GtaError if there is none.
        """
        return self.processes.run_on_main(self._read_state)

    def _read_state(self) -> dict[str, Any]:
        newest, previous = self.path / STATE_FILE, self.path / PREVIOUS_STATE_FILE
        try:
            return read_state_file(newest)
        except GtaError as error:
            try:
                state = read_state_file(previous)
            except GtaError:
                raise error from None
            if os.path.exists(newest):
                log.warning("%s: going on from the state before it", error.message)
            if not self.dry:
                previous.replace(newest)  # or the next write would keep the damaged one
            return state


def _reason(error: BaseException) -> str:
    """Return the first line of the OSError that caused `error`, or of `error` itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.errno == errno.EFBIG:
        return f"{cause.strerror}: raise the limit, ulimit -f"
    return str(cause or error).splitlines()[0]


def median_rate(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the median of the epochs' images per second; 0 without rows."""
    rates = sorted(row["images_per_second"] for row in rows)
    return round(rates[len(rates) // 2], 2) if rates else 0.0


def environment(precision: str | None = None) -> dict[str, Any]:
    """Return versions and machine for run.json; `precision`: of the networks, where one ran."""
    packages = ("gtacli", "torchvision", "timm", "kornia", "numpy")
    return {
        "argv": sys.argv,
        "folder": os.getcwd(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # includes the CUDA version
            **{p: version(p) for p in packages},
        },
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **({} if precision is None else {"precision": precision}),
    }
