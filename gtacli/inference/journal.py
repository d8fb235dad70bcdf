"""The journal of a stream of images: what is done, so that an interrupted command continues.

`journal.jsonl` lies beside the outputs. It has a line per image, in the order of the images,
written after the image's files. A resumed run repeats the results of the images at its beginning
that are still the same and whose files are there, and processes the others in the same batches as
an undisturbed run, so that its files and its output are the same.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, TypeVar

from gtacli.discovery.maps.digests import ImageFile, file_stamp
from gtacli.errors import RunError, UsageError
from gtacli.runtime.atomic import to_json
from gtacli.runtime.regular import open_regular
from gtacli.runtime.run_files import JOURNAL_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.strict_json import parse_json

log = logging.getLogger(__name__)
Item = TypeVar("Item")
_FILES = ("mask", "overlay", "output", "files")
"""Keys of results whose values are files, or lists of them."""
_FREE = {"out", "overwrite", "resume", "workers"}
"""Options that do not change the results."""


def check_resumable(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Raise UsageError if a folder holds a run of another command, or with other options.

    Args:
        record: run.json of the run that is to continue there; with its `models` (specs and
            fingerprints) and the `options` of their back-ends, both by name.
    """
    if not folder.has("run.json"):
        folder.check_free(False)
        return
    before = folder.read_json("run.json")
    if before.get("command") != record["command"]:
        text = f"{folder.path} holds a run of gta {before.get('command')}, which is not continued"
        raise UsageError(text, option="resume")
    _check_models(folder, before, record)
    old, new = before.get("config"), record["config"]
    for key in new:
        was = old.get(key) if isinstance(old, dict) else None
        if key not in _FREE and was != new[key]:
            raise UsageError(
                f"`{key}` is {_shown(new[key])}, but the run in {folder.path} has {_shown(was)}; "
                "continue it with its own options, or choose another `out`",
                option="resume",
            )


def _check_models(folder: RunFolder, before: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise UsageError if a model has other weights, or other options of its back-end."""
    for key, what in (("models", "the weights of {}"), ("options", "the chosen options of {}")):
        old = before.get(key)
        for name, now in record[key].items():
            if not isinstance(old, dict) or old.get(name) != now:
                text = f"{what.format(name)} have changed since the run in {folder.path} began"
                raise UsageError(f"{text}; choose another `out`, or `overwrite`", option="resume")


class ResultJournal(Generic[Item]):
    """The results of images so far, in a file that grows.

    Args:
        folder: None: nothing is written.
        resume: repeat what the file has; otherwise it is begun anew.

    Attributes:
        rest: after `replay`, the images that must be processed.
    """

    def __init__(self, folder: Path | None, resume: bool = False) -> None:
        self.path = None if folder is None else folder / JOURNAL_FILE
        self.resume = resume
        self.rest: Iterator[Item] = iter(())
        self._file: BinaryIO | None = None
        self._end = 0  # of the entries that fit, in bytes
        self._stamps: deque[tuple[str, str]] = deque()  # of the images that are in progress
        self._has_results = False

    def __enter__(self) -> ResultJournal[Item]:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab+")
                self._file.seek(0)
                if not self.resume:
                    self._file.truncate()
            except OSError as error:
                raise self._failed(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None and self.path is not None:
            with suppress(OSError):  # of a line that `add` has not written, which it has told
                self._file.close()
            if not self._has_results:  # so that another command may use the folder
                with suppress(OSError):
                    self.path.unlink()

    def replay(
        self,
        items: Iterable[Item],
        source: Callable[[Item], tuple[str, Sequence[ImageFile]]],
        batch: int,
    ) -> Iterator[dict[str, Any]]:
        """Yield the entries of the first images, by complete batches, as long as they fit.

        Args:
            items: all images.
            source: returns an image's name and the files that its result depends on.
            batch: images per batch of the stream; the rest is processed in the same batches.
        """
        items, done = iter(items), 0
        while self._file is not None:
            entries = [self._read() for _ in range(batch)]
            if None in entries:  # the last batch
                break
            given = [*islice(items, batch)]
            whole = [entry for entry in entries if entry is not None]
            if len(given) < batch or not all(map(_fits, whole, map(source, given))):
                items = chain(given, items)
                break
            done += batch
            self._end = self._file.tell()
            self._has_results |= any("error" not in entry for entry in whole)
            yield from whole
        self.rest = items if self._file is None else self._stamped(items, source)
        if self._file is not None:
            self._file.truncate(self._end)
            if done:
                log.info("%s images are done", f"{done:,}")

    def add(self, name: str, **result: Any) -> None:
        """Append the result of the next image of `rest`; its files are complete."""
        if self._file is None:
            return
        stamped, stamp = self._stamps.popleft()
        while stamped != name:  # of images that a stop has left out
            stamped, stamp = self._stamps.popleft()
        line = to_json({"image": name, "stamp": stamp, **result}) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            self._has_results |= "error" not in result
        except OSError as error:
            raise self._failed(error) from error

    def records(self) -> Iterator[Any]:
        """Yield the records of all images so far that were added with one, in their order."""
        if self.path is None or not self.path.exists():
            return
        with open_regular(self.path) as file:
            for line in file:
                if (record := parse_json(line).get("record")) is not None:
                    yield record

    def _stamped(
        self, items: Iterable[Item], source: Callable[[Item], tuple[str, Sequence[ImageFile]]]
    ) -> Iterator[Item]:
        """Pass items on, each stamped before it is read.

        A change from then on gives another stamp, so that its result is not taken for the result of
        the changed image.
        """
        for item in items:
            name, files = source(item)
            self._stamps.append((name, _stamp(files)))
            yield item

    def _read(self) -> dict[str, Any] | None:
        """Return the next entry; None at the end, and for a line that is damaged."""
        assert self._file is not None
        line = self._file.readline()
        with suppress(ValueError):
            if line.endswith(b"\n") and isinstance(entry := parse_json(line), dict):
                return entry
        return None

    def _failed(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self.path} ({error.strerror or error})", option="out")


def _fits(entry: Mapping[str, Any], given: tuple[str, Sequence[ImageFile]]) -> bool:
    """Return whether an entry is of this image, unchanged, and all files of its result exist."""
    name, sources = given
    if entry.get("image") != name or entry.get("stamp") != _stamp(sources):
        return False
    return all(map(os.path.isfile, _files(entry)))


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _files(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in _FILES:
                yield from (file for file in _listed(each) if isinstance(file, str))
            else:
                yield from _files(each)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _stamp(files: Sequence[ImageFile]) -> str:
    return " ".join((file_stamp(file) or b"").hex() for file in files)


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
