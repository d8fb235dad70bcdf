"""Names of shards: patterns, folders and URLs, each name made when its turn comes.

No shard is opened and hardly one asked for here, so that a hundred thousand begin in a moment; one
that is missing is reported when it is read.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import split_in_name
from gtacli.data.streams.braces import MAX_NAMES, BraceNames
from gtacli.errors import GtaError
from gtacli.images.find import is_hidden
from gtacli.runtime.download import has_scheme, require_url
from gtacli.runtime.fetching import require_fetching
from gtacli.runtime.paths import user_path
from gtacli.runtime.secrets import mask_secrets

_WILD = re.compile(r"[*?[]")
_TOP = re.compile(r"\s*https?://[^/{*?[\s]+/", re.IGNORECASE)
_TRIED = 100
"""Names of a pattern of which one at least must exist before anything begins."""


class ShardName(NamedTuple):
    """A shard; `name` is its path relative to the pattern's first wildcard or brace."""

    name: str
    place: str
    """Its path, or its URL."""


class ShardNames:
    """The shards of a pattern in order, or the `first`, `first + step`, ... of them.

    Attributes:
        top: the folder of the shards; None if they are remote.
    """

    def __init__(
        self,
        top: Path | None,
        names: list[str] | BraceNames,
        fixed: str = "",
        first: int = 0,
        step: int = 1,
    ) -> None:
        self.top = top
        self._names, self._fixed = names, fixed
        self._first, self._step = first, step

    def __len__(self) -> int:
        return len(range(self._first, len(self._names), self._step))

    def __iter__(self) -> Iterator[ShardName]:
        for number in range(self._first, len(self._names), self._step):
            yield self._shard(self._names[number])

    def __getitem__(self, number: int) -> ShardName:
        return self._shard(self._names[range(self._first, len(self._names), self._step)[number]])

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names, or of the pattern that stands for them."""
        listed = isinstance(self._names, list)
        names = self._names
        if isinstance(names, BraceNames):
            names = [mask_secrets(names.pattern)]
        top = mask_secrets(self._fixed) if self.top is None else os.path.abspath(self.top)
        lines = (top, f"{self._first} {self._step} {listed}", *names)
        digest = hashlib.sha256()
        for line in lines:
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()

    def part(self, number: int, count: int) -> ShardNames:
        """Return the shards `number`, `number + count`, ... of these."""
        first, step = self._first + number * self._step, count * self._step
        return ShardNames(self.top, self._names, self._fixed, first, step)

    def _shard(self, name: str) -> ShardName:
        if self.top is None:
            shown = re.sub(r"(\.(?:tar|parquet))\b.*", r"\1", name)
            return ShardName(shown, self._fixed + name)
        return ShardName(Path(name).as_posix(), str(self.top / name))


def split_of_shard(name: str) -> str | None:
    """Return the split in the shard's name, else in its nearest folder."""
    splits = (split_in_name(step) for step in reversed(name.split("/")))
    return next(filter(None, splits), None)


def is_for_training(shard: ShardName) -> bool:
    """Return whether the name of a shard says neither validation nor test."""
    return split_of_shard(shard.name) in (None, "train")


def find_shards(kind: str, pattern: str, suffix: str, lazy: bool = True) -> ShardNames:
    """Find the shards of a pattern, a folder or a URL.

    Args:
        kind: the family of the data spec, for errors.
        suffix: of the files in a folder.
        lazy: whether the names are made one by one; then there may be more.

    Raises GtaError if there is none, and for URLs that are not opened; nothing is downloaded.
    """
    shown = mask_secrets(f"{kind}/{pattern}")
    fixed = re.split(r"[{*?[]", pattern, maxsplit=1)[0]
    start = len(fixed) - len(fixed.rpartition("/")[2])
    most = {} if lazy else {"most": MAX_NAMES}
    urls = BraceNames(pattern, kind=kind, **most)
    if not len(urls):
        raise GtaError(f"{shown} stands for no shard")
    if _is_remote(urls, pattern):
        require_fetching(shown)
        return ShardNames(None, BraceNames(pattern[start:], kind=kind, **most), pattern[:start])
    folder = user_path(pattern)
    if os.path.isdir(folder):  # False for names that are too long
        found = _list_folder(str(folder), suffix)
        if not found:
            raise GtaError(f"{shown}: no {suffix} in that folder")
        return ShardNames(folder, found)
    top = user_path(pattern[:start])
    names = BraceNames(pattern[start:], kind=kind, **most)
    matched: list[str] | BraceNames = names
    if _WILD.search(pattern[start:]):
        matched = [name for one in names for name in _matches(one, top, shown)]
    tried = list(islice(matched, _TRIED))
    if not any(os.path.isfile(top / name) for name in tried):
        raise GtaError(f"{shown}: no such shard: {top / tried[0]}")
    return ShardNames(top, matched)


def _is_remote(urls: BraceNames, pattern: str) -> bool:
    """Return whether the names are URLs. Raises GtaError unless all of them may be opened."""
    if _TOP.match(pattern):  # scheme and host are the same in all
        require_url(urls[0])
        return True
    words = re.split(r"[/\\]", pattern, maxsplit=1)[0]
    if ":" not in words and "{" not in words:
        return False
    if len(urls) > MAX_NAMES:  # of which every one would have to be looked at
        if ":" in pattern:
            raise GtaError(f"{mask_secrets(pattern[:80])}: write the host before the first brace")
        return False
    if not any(map(has_scheme, urls)):
        return False
    for url in urls:
        require_url(url)
    return True


def _matches(name: str, top: Path, shown: str) -> list[str]:
    if not _WILD.search(name):
        return [name]
    found = sorted(glob.glob(name, root_dir=top))
    if not found:
        raise GtaError(f"{shown}: no such shard: {top / name}")
    return found


def _list_folder(folder: str, suffix: str) -> list[str]:
    """Return the relative paths of the files below a folder, in the order of their parts."""
    found: list[str] = []
    for place, _, files in os.walk(folder):
        below = os.path.relpath(place, folder)
        inside = "" if below == os.curdir else below + os.sep
        found += (inside + f for f in files if f.endswith(suffix) and not is_hidden(f))
    return sorted(found, key=lambda name: name.split(os.sep))
