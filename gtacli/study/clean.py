"""Removal of cells that a study no longer needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from gtacli.study.folder import State, StudyFolder
from gtacli.study.results import StudyCleaned
from gtacli.study.states import StudyProgress
from gtacli.study.work import unneeded


def clean(folder: StudyFolder, dry_run: bool = False) -> StudyCleaned:
    """Remove the cells that the study no longer has, that have changed, and that have failed.

    So are files of finished cells that nothing needs. Running cells stay.

    Args:
        dry_run: remove nothing, but say what would be.
    """
    progress = StudyProgress(folder)
    gone = [
        name for name, state in progress.states.items() if state in (State.CHANGED, State.FAILED)
    ]
    gone += [name for name in folder.stale() if not folder.is_running(name)]
    paths = [path for name in gone for path in _paths(folder, name)]
    for name, state in progress.states.items():
        if state is State.FINISHED:
            paths += unneeded(folder, progress.plan.cells[name])
    size = sum(_size(path) for path in paths)
    for path in [] if dry_run else paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return {"removed": sorted(gone), "bytes": size, "dry_run": dry_run}


def _paths(folder: StudyFolder, name: str) -> list[Path]:
    records = [folder.records / f"{name}.{suffix}" for suffix in ("json", "toml", "log")]
    return [path for path in (folder.run(name), *records) if path.exists() or path.is_symlink()]


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size
