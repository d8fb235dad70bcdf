"""The folder of a cache: whether it may be used, who works in it, and how large it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from gtacli.discovery.maps.files import MAPS, SEEN, SHARDS, files_in
from gtacli.discovery.maps.index import INDEX
from gtacli.discovery.maps.manifest import MANIFEST, MapManifest, check_manifest, read_manifest
from gtacli.discovery.maps.sorted_file import SUFFIX
from gtacli.errors import UsageError, errors_about
from gtacli.runtime.drafts import content
from gtacli.runtime.ownership import is_owned, owned

JOURNAL = "journal-"


@errors_about("out")
def check_free(folder: Path, manifest: MapManifest | None = None) -> None:
    """Raise UsageError for a folder with other files, or with maps of another manifest."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file")
    if (folder / MANIFEST).is_file():
        if manifest is not None:
            check_manifest(folder, read_manifest(folder), manifest)
    elif folder.is_dir() and any(
        not name.startswith(JOURNAL) for name in content(p.name for p in folder.iterdir())
    ):
        raise UsageError(f"{folder} is not empty and has no maps; choose another folder")


def remove_cache(folder: Path) -> None:
    """Delete the files of a cache; other files in the folder stay.

    Raises UsageError if a run writes to it.
    """
    if not (folder / MANIFEST).is_file():
        return
    for file in journals(folder):
        with owned(folder, "discover", part=file.name):
            pass
    for name in (MAPS, SEEN, SHARDS, INDEX):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in (*journals(folder), folder / MANIFEST):
        file.unlink(missing_ok=True)


def journals(folder: Path) -> list[Path]:
    """List the journal files of interrupted or running jobs."""
    return sorted(folder.glob(f"{JOURNAL}*"))


def is_at_work(folder: Path, share: tuple[int, int]) -> bool:
    """Return whether a process is at work on a share (i, n) of the images."""
    return is_owned(folder, journal_name(share))


def journal_name(share: tuple[int, int]) -> str:
    """Return the name of the journal of run i of n, for a share (i, n)."""
    return f"{JOURNAL}{share[0]}-of-{share[1]}"


def size_of(folder: Path) -> int:
    """Return the size of a cache's files in bytes."""
    files = [folder / MANIFEST]
    files += (file for name in (MAPS, SEEN, SHARDS) for file in files_in(folder / name))
    files += (folder / INDEX).rglob(f"*{SUFFIX}")
    return sum(file.stat().st_size for file in files)
