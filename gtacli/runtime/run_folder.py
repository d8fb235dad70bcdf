"""The run folder: what a run leaves behind, every file written atomically (see `run_files`)."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gtacli.errors import GtaError, RunError, UsageError
from gtacli.runtime.atomic import replace_atomic, to_json
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.run_files import (
    FILES,
    FOLDERS,
    STATE_FILE,
    WEIGHTS_FILE,
)


def default_out(command: str) -> Path:
    """runs/COMMAND-DATE-TIME, with a number behind it where that exists already."""
    stem = f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}-{i}" for i in range(2, 1000)))
    return next(path for name in names if not (path := Path("runs") / name).exists())


class RunFolder:
    """A folder for one run's files.

    Of several processes the first one reads and writes, on its node; all call together, all get
    what it read, and all raise the error that it met.

    Args:
        path: where; made at the first write.
        dry: write nothing at all.
        processes: that share the run.
    """

    def __init__(self, path: Path, dry: bool = False, processes: Processes = ALONE) -> None:
        self.path = path
        self.dry = dry
        self.processes = processes

    def subfolder(self, name: str) -> RunFolder:
        """A folder in this one, for a run that is part of the run."""
        return RunFolder(self.path / name, self.dry, self.processes)

    def check_free(self, overwrite: bool, resumable: bool = True) -> None:
        """Raise UsageError for a used folder, unless it holds an earlier run and `overwrite`.

        A run that came to nothing has left its record alone, which stops nobody.
        """
        if self.path.is_file():
            raise UsageError(f"--out: {self.path} is a file")
        if not self.path.is_dir() or {p.name for p in self.path.iterdir()} <= {"run.json"}:
            return
        if not overwrite:
            resume = ", or --resume to go on with the run in it" if resumable else ""
            choose = "choose another folder" + (", --overwrite" if resumable else " or --overwrite")
            raise UsageError(f"--out: {self.path} is not empty; {choose}{resume}")
        if not (self.path / "run.json").is_file():
            raise UsageError(f"--out: {self.path} holds no earlier run, so it is not overwritten")

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        if self.processes.is_main and not self.dry:
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            for name in FOLDERS:
                self.remove(name)

    def remove(self, folder: str) -> None:
        """Remove a folder of the run's own."""
        if self.processes.is_main and not self.dry:
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def copy_progress(self, other: RunFolder) -> None:
        """Take over what another run trained so far; the state last, since with it the run can
        go on."""
        for name in ("metrics.jsonl", WEIGHTS_FILE, STATE_FILE):
            self.write(name, partial(shutil.copyfile, other.path / name))

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file; readers never see half of it, see `gtacli.runtime.atomic`."""
        if not self.dry:
            self.processes.run_on_main(lambda: self._write(name, write))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        try:
            replace_atomic(self.path / name, write, sync=True)
        except (OSError, RuntimeError, SafetensorError) as e:  # a full disk looks different to each
            text = f"--out: cannot write {self.path / name} ({_reason(e)})"
            # Before the first step it is the user's input that is wrong, later the run has failed.
            raise (GtaError if name in ("run.json", "split.json") else RunError)(text) from e

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        text = to_json(value, indent=1) + "\n"
        self.write(name, lambda p: p.write_text(text, encoding="utf-8"))

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(to_json(row) + "\n" for row in rows)
        self.write("metrics.jsonl", lambda p: p.write_text(text, encoding="utf-8"))

    def write_model(
        self, model: torch.nn.Module, metadata: Mapping[str, str], name: str = WEIGHTS_FILE
    ) -> None:
        def save(path: Path) -> None:
            tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            save_file(tensors, path, dict(metadata))

        self.write(name, save)

    def write_state(self, state: Mapping[str, Any]) -> None:
        def save(path: Path) -> None:
            with path.open("wb") as file:  # torch's own file does not say why it cannot be written
                torch.save(dict(state), file)

        self.write(STATE_FILE, save)

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises GtaError for a missing or damaged file."""
        return self.processes.run_on_main(lambda: self._read_json(name))

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as e:
            raise GtaError(
                f"{self.path / name} cannot be read; is {self.path} a run folder?"
            ) from e

    def has(self, name: str) -> bool:
        return self.processes.run_on_main((self.path / name).is_file)

    def read_state(self) -> dict[str, Any]:
        """The state of an interrupted run. Raises GtaError when there is none."""
        return self.processes.run_on_main(self._read_state)

    def _read_state(self) -> dict[str, Any]:
        file = self.path / STATE_FILE
        if not file.is_file():
            raise GtaError(f"--resume: {self.path} has no {STATE_FILE}: it ended before an epoch")
        try:
            return dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as e:
            raise GtaError(f"--resume: {file} is damaged ({str(e).splitlines()[0]})") from e


def _reason(error: BaseException) -> str:
    """What the system said, where it is what lies behind."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return str(behind or error).splitlines()[0]


def median_rate(rows: Iterable[Mapping[str, Any]]) -> float:
    """Images a second of the epochs in metrics.jsonl, the middle one."""
    rates = sorted(row["images_per_second"] for row in rows)
    return round(rates[len(rates) // 2], 2) if rates else 0.0


def environment() -> dict[str, Any]:
    """Versions and machine, for run.json."""
    packages = ("gtacli", "torchvision", "timm", "kornia", "numpy")
    return {
        "argv": sys.argv,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # says for which CUDA it was built, too
            **{p: version(p) for p in packages},
        },
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
