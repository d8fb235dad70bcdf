"""Family `wds`: WebDataset shards with the spec `wds/URL`.

URL is a pattern of tars (`wds/birds/train-{000..003}.tar`, also `{a,b}` and `*`) or a folder of
them. Samples are those of timm's ReaderWds: members that share a name up to its first dot, an
image, and `.cls` (or the field `label` in `.json`). The name of a shard or its folder contains the
split; without any, all shards are for training. Class names are read from `classnames.txt` or
`classes.txt` beside the shards.

Fine-tuning samples by class and holds images out, which a stream like timm's reader does not allow.
For that the shards are indexed from the tars' headers, and every sample is a record that is read by
its offset. For the same reason remote shards are downloaded once into the cache folder; labeled
datasets for fine-tuning are small. Commands that take one image after the other, and pre-training,
read the shards as a stream, without index and copies. Only `https://` is opened (see
`gtacli.runtime.download`): webdataset's own opener also runs commands (`pipe:`), so it is not used.
"""

import hashlib
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from gtacli.data.base import NO_CLASS, ImageDataset, Record, StreamedFamily
from gtacli.data.readers.published import list_lines
from gtacli.data.readers.table import sorted_labels
from gtacli.data.streams.names import find_shards, split_of_shard
from gtacli.data.streams.tars import explain_dots, label_in_json, split_name
from gtacli.errors import GtaError, reason_of_library
from gtacli.images.find import is_hidden, is_image, read_file_state
from gtacli.images.packed import PackedImage
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.cache import cache_dir
from gtacli.runtime.download import download
from gtacli.runtime.regular import not_utf8, open_regular
from gtacli.runtime.secrets import mask_secrets

if TYPE_CHECKING:
    from gtacli.data.streams.stream import ImageStream

log = logging.getLogger(__name__)
CLASS_NAMES = ("classnames.txt", "classes.txt")


class Shard(NamedTuple):
    """A shard; `name` is its path relative to the pattern's first wildcard."""

    name: str
    path: Path


class Shards(StreamedFamily):
    """The reader of WebDataset shards."""

    help = "WebDataset shards: wds/FOLDER, wds/PATH/{000..003}.tar, or a URL of shards"
    usage = "wds/URL"

    def open(self, rest: str) -> ImageDataset:
        top, shards = _find(rest)
        split_of = {shard: split_of_shard(shard.name) for shard in shards}
        if any(split_of.values()) and not all(split_of.values()):
            shard = next(shard for shard, split in split_of.items() if split is None)
            raise GtaError(f"wds/{rest}: the name of {shard.name} must contain train, val or test")
        samples = {shard: list(_labeled_samples(shard)) for shard in shards}
        used = {label for part in samples.values() for _, _, label in part}
        classes = _class_names(top, used) or sorted_labels(used)
        index = {name: label for label, name in enumerate(classes)}
        if used - set(index):  # the labels are indices of the listed names
            index = {str(label): label for label in range(len(classes))}
        splits: dict[str, list[Record]] = {}
        for shard, part in samples.items():
            splits.setdefault(split_of[shard] or "train", []).extend(
                Record(f"{shard.name}/{name}", index[label], member) for name, member, label in part
            )
        name = (top.name if top else "") or mask_secrets(f"wds/{rest}")
        return ImageDataset(name, classes, {split: tuple(part) for split, part in splits.items()})

    def stream(self, rest: str) -> "ImageStream":
        from gtacli.data.streams.stream import ImageStream, TarShard

        names = find_shards("wds", rest, ".tar")
        classes = _listed_classes(names.top)
        by_number = {str(number): name for number, name in enumerate(classes)}
        # As in an index: a label that is listed is a name, even where it is a number, too.
        return ImageStream(names, TarShard, {**by_number, **{name: name for name in classes}})

    def images(self, rest: str, every_split: bool = False) -> ImageDataset:
        """Read the images of the training shards, or of all, in a single class."""
        top, shards = _find(rest)
        splits: dict[str, list[Record]] = {}
        for shard in shards:
            split = split_of_shard(shard.name) or "train"
            if split == "train" or every_split:
                splits.setdefault(split, []).extend(
                    Record(f"{shard.name}/{image.name}", 0, image) for image, _ in _samples(shard)
                )
        name = (top.name if top else "") or mask_secrets(f"wds/{rest}")
        return ImageDataset(name, NO_CLASS, {split: tuple(part) for split, part in splits.items()})


@dataclass(frozen=True, slots=True)
class Member(PackedImage):
    """An image in a shard, from `offset` to `offset + size`."""

    shard: Path
    name: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        with open_regular(self.shard) as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def stamp(self) -> int:
        return self.size

    def state(self) -> str:
        return f"{read_file_state(self.shard)}\0{self.offset}+{self.size}"

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"


def _find(pattern: str) -> tuple[Path | None, list[Shard]]:
    """Return the folder of the shards (None if they are remote), and the shards."""
    names = find_shards("wds", pattern, ".tar", lazy=False)
    if names.top is None:
        return None, [Shard(name, _download(url, name)) for name, url in names]
    shards = [Shard(name, Path(place)) for name, place in names]
    for shard in shards:
        if not shard.path.is_file():
            raise GtaError(f"wds/{pattern}: no such shard: {shard.path}")
    return names.top, shards


def _samples(shard: Shard) -> Iterator[tuple[Member, str | None]]:
    """Yield (image, label or None) of a shard's samples in order."""
    labels: dict[str, str] = {}
    images: dict[str, Member] = {}
    dotted: dict[str, str] = {}
    try:
        with open_regular(shard.path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                name, key, kind = split_name(member.name)
                if not member.isfile() or is_hidden(name.rpartition("/")[2]):
                    continue
                if kind.lower() in ("cls", "json"):
                    text = tar.extractfile(member).read()  # type: ignore[union-attr]
                    label = text.decode().strip() if kind.lower() == "cls" else label_in_json(text)
                    if label is not None and (kind.lower() == "cls" or key not in labels):
                        labels[key] = label
                elif not is_image(f"x.{kind}"):
                    continue
                elif "." in kind:
                    dotted.setdefault(key, name)
                elif key not in images:
                    images[key] = Member(shard.path, name, member.offset_data, member.size)
    except (OSError, tarfile.TarError, ValueError) as error:
        reason = not_utf8(error) if isinstance(error, UnicodeDecodeError) else error
        raise GtaError(f"cannot read shard {shard.path} as a plain tar: {reason}") from error
    if lost := [name for key, name in dotted.items() if key not in images]:
        log.warning("%s: %d samples are omitted: %s", shard.path, len(lost), explain_dots(lost[0]))
    for key, image in images.items():
        yield image, labels.get(key)


def _labeled_samples(shard: Shard) -> Iterator[tuple[str, Member, str]]:
    """Yield (name, image, label) of a shard's samples. Raises GtaError if a label is missing."""
    skipped = 0
    for image, label in _samples(shard):
        if label is None:
            key = image.name.rpartition(".")[0]
            raise GtaError(f"{image} has no label: no {key}.cls, and no 'label' in {key}.json")
        if re.fullmatch(r"-\d+", label):  # a negative label means that there is none
            skipped += 1
        else:
            yield image.name, image, str(int(label)) if label.isdecimal() else label
    if skipped:
        log.warning("%s: %d samples with a negative label are omitted", shard.name, skipped)


def _class_names(top: Path | None, used: set[str]) -> tuple[str, ...] | None:
    """Return the class names listed beside the shards, if there is a list that fits."""
    path = _class_list(top)
    if path is None:
        return None
    names = tuple(text for _, text in list_lines(path))
    numbers = {str(number) for number in range(len(names))}
    if len(set(names)) != len(names) or not (used <= set(names) or used <= numbers):
        raise GtaError(f"{path} lists {len(names)} classes, which do not fit the labels")
    return names


def _listed_classes(top: Path | None) -> list[str]:
    """Return the class names listed beside the shards; none without a list."""
    path = _class_list(top)
    return [] if path is None else [text for _, text in list_lines(path)]


def _class_list(top: Path | None) -> Path | None:
    paths = [] if top is None else [top / file for file in CLASS_NAMES]
    return next(filter(os.path.isfile, paths), None)


def _download(url: str, name: str) -> Path:
    """Return the local copy of a remote shard; download it if there is none."""
    stem = hashlib.sha256(url.encode()).hexdigest()[:12]
    file = re.sub(r"[^\w.-]", "_", name.rpartition("/")[2])
    target = cache_dir() / "wds" / f"{stem}-{file}"
    if os.path.isfile(target):
        return target
    log.info("downloading %s into %s (once)", mask_secrets(url), target.parent)

    def write(draft: Path) -> None:
        download(url, draft)
        list(_samples(Shard(name, draft)))  # raises if the shard is incomplete

    try:
        replace_atomic(target, write)
    except (OSError, ValueError, HTTPException, GtaError) as error:
        reason = mask_secrets(reason_of_library(error))
        raise GtaError(
            f"cannot download shard {mask_secrets(url)}: {reason}. A copy that was downloaded "
            "elsewhere is read with wds/FILE.tar"
        ) from error
    return target
