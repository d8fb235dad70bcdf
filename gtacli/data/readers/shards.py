"""Family `wds`: WebDataset shards, as `--data wds/URL`.

URL is a pattern of tars (`wds/birds/train-{000..003}.tar`, `{a,b}` and `*` too) or a folder of
them. The samples are as timm's ReaderWds has them: members that share a name up to its first dot,
an image, and `.cls` (or the field `label` in `.json`). A part is what the shard's name or its
folder's says, all is training where none says any. The classes' names come from `classnames.txt` or
`classes.txt` beside the shards.

Few-label fine-tuning draws a share of each class, holds images out and resumes at any batch. A
stream, as timm's reader is, can do none of it. So the shards are indexed at the start, from the
tars' headers, and every sample is a record that is read by its offset, as a file of a folder is.
For the same reason remote shards (`https:`, `pipe:`, whatever webdataset opens) are fetched once
into the cache folder: a labelled set for fine-tuning is small.
"""

import glob
import hashlib
import json
import logging
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gtacli.data.base import NO_CLASS, DatasetFamily, ImageDataset, Record, split_in_name
from gtacli.data.readers.table import sorted_labels
from gtacli.errors import GtaError
from gtacli.images.find import is_hidden, is_image, read_file_state
from gtacli.images.packed import PackedImage
from gtacli.runtime.cache import cache_dir

log = logging.getLogger(__name__)
CLASS_NAMES = ("classnames.txt", "classes.txt")


class Shard(NamedTuple):
    name: str
    """Its path below the part of the pattern that is fixed."""
    path: Path


class Shards(DatasetFamily):
    help = "WebDataset shards: wds/FOLDER, wds/PATH/{000..003}.tar, or a URL of such"
    usage = "wds/URL"

    def open(self, rest: str) -> ImageDataset:
        top, shards = _find(rest)
        parts = {shard: _part(shard.name) for shard in shards}
        if any(parts.values()) and not all(parts.values()):
            shard = next(shard for shard, part in parts.items() if part is None)
            raise GtaError(f"wds/{rest}: does {shard.name} belong to train, val or test?")
        samples = {shard: list(_labelled(shard)) for shard in shards}
        used = {label for part in samples.values() for _, _, label in part}
        classes = _class_names(top, used) or sorted_labels(used)
        index = {name: label for label, name in enumerate(classes)}
        if used - set(index):  # numbers, which index a list of names
            index = {str(label): label for label in range(len(classes))}
        splits: dict[str, list[Record]] = {}
        for shard, part in samples.items():
            splits.setdefault(parts[shard] or "train", []).extend(
                Record(f"{shard.name}/{name}", index[label], member) for name, member, label in part
            )
        name = (top.name if top else "") or f"wds/{rest}"
        return ImageDataset(name, classes, {split: tuple(part) for split, part in splits.items()})

    def images(self, rest: str) -> ImageDataset:
        """All images of the training shards in one class, whatever labels they have or lack."""
        top, shards = _find(rest)
        training = [shard for shard in shards if _part(shard.name) in (None, "train")]
        records = (
            Record(f"{shard.name}/{image.name}", 0, image)
            for shard in training
            for image, _ in _samples(shard)
        )
        name = (top.name if top else "") or f"wds/{rest}"
        return ImageDataset(name, NO_CLASS, {"train": tuple(records)})


@dataclass(frozen=True, slots=True)
class Member(PackedImage):
    """Bytes `offset` to `offset + size` of a shard."""

    shard: Path
    name: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def stamp(self) -> int:
        return self.size

    def state(self) -> str:
        return f"{read_file_state(self.shard)}\0{self.offset}+{self.size}"

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"


def expand_braces(pattern: str) -> list[str]:
    """`{000..003}` and `{a,b}`, as shells and WebDataset expand them."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    first, dots, last = braces[1].partition("..")
    words = braces[1].split(",")
    if dots and first.isdigit() and last.isdigit():
        words = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [name for word in words for name in expand_braces(before + word + after)]


def _find(pattern: str) -> tuple[Path | None, list[Shard]]:
    """The folder of the shards (None: remote), and the shards."""
    fixed = re.split(r"[{*?[]", pattern, maxsplit=1)[0]
    start = len(fixed) - len(fixed.rpartition("/")[2])
    if re.match(r"[a-z][a-z0-9+]+:", pattern):  # two letters at least: not a Windows drive
        urls = expand_braces(pattern)
        names = [re.sub(r"(\.tar)\b.*", r"\1", url[start:]) for url in urls]
        return None, [Shard(n, _fetched(url, n)) for n, url in zip(names, urls, strict=True)]
    folder = Path(pattern).expanduser()
    if folder.is_dir():
        paths = sorted(p for p in folder.rglob("*.tar") if not is_hidden(p.name))
        if not paths:
            raise GtaError(f"wds/{pattern}: no .tar in that folder")
        return folder, [Shard(path.relative_to(folder).as_posix(), path) for path in paths]
    top = Path(pattern[:start]).expanduser()
    shards = []
    for name in expand_braces(pattern[start:]):
        matched = sorted(glob.glob(name, root_dir=top)) if re.search(r"[*?[]", name) else [name]
        if not matched or not (top / matched[0]).is_file():
            raise GtaError(f"wds/{pattern}: no such shard: {top / name}")
        shards += [Shard(Path(found).as_posix(), top / found) for found in matched]
    return top, shards


def _part(name: str) -> str | None:
    """What the shard's name says, else the nearest of its folders."""
    steps = [split_in_name(step) for step in reversed(name.split("/"))]
    return next((part for part in steps if part), None)


def _samples(shard: Shard) -> Iterator[tuple[Member, str | None]]:
    """(image, label or None) of a shard's samples, in their order."""
    labels: dict[str, str] = {}
    images: dict[str, Member] = {}
    try:
        with tarfile.open(shard.path, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                folder, slash, file = name.rpartition("/")
                stem, _, kind = file.partition(".")
                key = folder + slash + stem
                if not member.isfile() or is_hidden(file):
                    continue
                if kind.lower() in ("cls", "json"):
                    text = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                    label = text.strip() if kind.lower() == "cls" else _label(text)
                    if label is not None and (kind.lower() == "cls" or key not in labels):
                        labels[key] = label
                elif is_image(f"x.{kind}") and "." not in kind and key not in images:
                    images[key] = Member(shard.path, name, member.offset_data, member.size)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise GtaError(f"cannot read shard {shard.path} as a plain tar: {error}") from error
    for key, image in images.items():
        yield image, labels.get(key)


def _labelled(shard: Shard) -> Iterator[tuple[str, Member, str]]:
    """(name, image, label) of a shard's samples that have a label."""
    skipped = 0
    for image, label in _samples(shard):
        if label is None:
            key = image.name.rpartition(".")[0]
            raise GtaError(f"{image} has no label: no {key}.cls, and no 'label' in {key}.json")
        if re.fullmatch(r"-\d+", label):  # so shards say of a sample that it has none
            skipped += 1
        else:
            yield image.name, image, str(int(label)) if label.isdecimal() else label
    if skipped:
        log.warning("%s: %d samples with a negative label are left out", shard.name, skipped)


def _label(text: str) -> str | None:
    value = json.loads(text)
    found = value.get("label") if isinstance(value, dict) else None
    return None if found is None else str(found)


def _class_names(top: Path | None, used: set[str]) -> tuple[str, ...] | None:
    """The names listed beside the shards, where the labels are such names or index them."""
    for file in CLASS_NAMES if top else ():
        path = (top or Path()) / file
        if path.is_file():
            names = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line)
            numbers = {str(number) for number in range(len(names))}
            if len(set(names)) != len(names) or not (used <= set(names) or used <= numbers):
                raise GtaError(f"{path} lists {len(names)} classes, which do not fit the labels")
            return names
    return None


def _fetched(url: str, name: str) -> Path:
    """The local copy of a remote shard, fetched where there is none yet."""
    stem = hashlib.sha256(url.encode()).hexdigest()[:12]
    target = cache_dir() / "wds" / f"{stem}-{name.rpartition('/')[2]}"
    if target.is_file():
        return target
    try:
        from webdataset.gopen import gopen
    except ImportError as error:
        raise GtaError(
            "remote shards need the package webdataset: pip install 'gtacli[wds]'"
        ) from error
    log.info("fetching %s into %s (once)", url, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        with gopen(url, "rb") as source, (draft / "shard").open("wb") as copy:
            shutil.copyfileobj(source, copy)
        list(_samples(Shard(name, draft / "shard")))  # whole, before it gets its name
        (draft / "shard").replace(target)
    except Exception as error:  # whatever the scheme's opener raises
        raise GtaError(f"cannot fetch shard {url}: {' '.join(str(error).split())}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
