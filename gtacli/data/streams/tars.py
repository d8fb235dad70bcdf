"""Images of a tar in the order of its members: one pass, constant memory, no seek backwards.

The rules are those of WebDataset: members that follow each other and share a name up to its first
dot are a sample, an image with its label (`.cls`, or the field `label` in `.json`). Python's
`tarfile` reads the headers (ustar, GNU, pax), through a file that bounds what they may ask for.
Names are only names: nothing is written, and links and devices are passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gtacli.data.streams.samples import LARGEST, ShardError, Unreadable
from gtacli.images.find import is_hidden, is_image
from gtacli.runtime.strict_json import parse_json

MOST_HEADER = 1 << 20
"""Bytes of a name, of pax headers, of a label."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class ForwardSource(Protocol):
    """The bytes of a shard, from its start."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        ...

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, or over what is left."""
        ...


class PackedMember(NamedTuple):
    """An image of a shard.

    Attributes:
        name: of the member.
        data: its bytes.
        label: the text of its label, "" for none.
        start: where its sample begins; a shard can be read from there.
    """

    name: str
    data: bytes
    label: str
    start: int = 0


def read_tar(
    source: ForwardSource, labels: bool, start: int = 0
) -> Iterator[PackedMember | Unreadable]:
    """Yield the images of a tar, the first one of each sample.

    Args:
        labels: whether labels are read.
        start: the byte where the source begins, the start of a sample.

    An image that is too large or whose label cannot be read is `Unreadable`. Raises ShardError
    where the tar itself ends early or is damaged; what came before has been yielded.
    """
    file = _Forward(source, start)
    sample = _Sample("", start)
    try:
        with tarfile.TarFile(fileobj=file, mode="r") as tar:  # type: ignore[arg-type]
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold the headers of the whole shard
                name, key, kind = split_name(member.name)
                if not member.isfile() or is_hidden(name.rpartition("/")[2]):
                    continue
                if key != sample.key:
                    yield from sample.close()
                    sample = _Sample(key, member.offset)
                _take(sample, file, member, name, kind.lower(), labels)
        file.require_end()
    except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
        raise ShardError(file.explain(error)) from error
    yield from sample.close()


def split_name(name: str) -> tuple[str, str, str]:
    """Return the name of a member, that of its sample, and what follows the first dot."""
    name = name.removeprefix("./")
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return name, folder + slash + stem, kind


def explain_dots(name: str) -> str:
    """Return why a sample has no image, where one of its members has a further dot in its name."""
    key, kind = split_name(name)[1:]
    text = f"sample {key!r} has no image: {kind!r}, after the first dot, is no suffix of one"
    return f"{text}; rename its members"


def label_in_json(data: bytes) -> str | None:
    """Return the field `label` of a JSON object, None without one. Raises ValueError."""
    value = parse_json(data)
    found = value.get("label") if isinstance(value, dict) else None
    return None if found is None else str(found)


class _Sample:
    """The members of one sample so far."""

    def __init__(self, key: str, start: int) -> None:
        self.key, self.start = key, start
        self.image: PackedMember | Unreadable | None = None
        self.label: str | None = None
        self.problem: str | None = None
        """Why the label cannot be read."""
        self.by_class = False
        self.dotted: str | None = None
        """The first image with a further dot in its name."""

    def close(self) -> Iterator[PackedMember | Unreadable]:
        """Yield the image, if there is one, or the member that may have been meant for one."""
        if self.image is None:
            if self.dotted is not None:
                yield Unreadable(self.dotted, explain_dots(self.dotted))
            return
        if self.problem is not None and isinstance(self.image, PackedMember):
            yield Unreadable(self.image.name, self.problem)
        elif isinstance(self.image, PackedMember):
            yield self.image._replace(label=self.label or "", start=self.start)
        else:
            yield self.image


def _take(
    sample: _Sample, file: _Forward, member: tarfile.TarInfo, name: str, kind: str, labels: bool
) -> None:
    """Read a member, if it is an image or a label of its sample."""
    if is_image(f"x.{kind}"):
        if "." in kind:
            sample.dotted = sample.dotted or name
        elif sample.image is None:
            sample.image = _read_image(file, member, name)
    elif labels and kind in ("cls", "json") and not (kind == "json" and sample.by_class):
        try:
            sample.label = _read_label(file, member, kind) or sample.label
        except ValueError as error:
            sample.problem = f"its label {name} cannot be read: {error}"
        else:
            sample.by_class, sample.problem = sample.by_class or kind == "cls", None


def _read_image(file: _Forward, member: tarfile.TarInfo, name: str) -> PackedMember | Unreadable:
    if member.issparse():
        return Unreadable(name, "it is stored as a sparse file, which is not read")
    if member.size > LARGEST:
        return Unreadable(name, f"it has {member.size:,} bytes; at most {LARGEST:,} are read")
    return PackedMember(name, file.content(member.size), "")


def _read_label(file: _Forward, member: tarfile.TarInfo, kind: str) -> str | None:
    if member.issparse() or member.size > MOST_HEADER:
        raise ValueError(f"it has {member.size:,} bytes")
    data = file.content(member.size)
    if kind == "cls":
        return data.decode().strip()
    return label_in_json(data)


class _Forward:
    """The file that `tarfile` reads."""

    def __init__(self, source: ForwardSource, start: int) -> None:
        self._source = source
        self._place = start
        self._last = self._first = b""

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        if place < self._place:
            raise tarfile.ReadError("a size in it is negative")
        self._source.skip(place - self._place)
        self._place = place

    def read(self, size: int) -> bytes:
        if size > MOST_HEADER:
            raise tarfile.ReadError(f"a header in it says that it has {size:,} bytes")
        self._last = self._source.read(size)
        if not self._place:
            self._first = self._last
        self._place += len(self._last)
        return self._last

    def content(self, size: int) -> bytes:
        """Return the content of the current member. Raises ReadError if the tar ends within it."""
        data = self._source.read(size)
        self._place += len(data)
        if len(data) < size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def require_end(self) -> None:
        """Raise ReadError unless the header that was read last marks the end."""
        if len(self._last) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        if self._last.strip(b"\0"):
            raise tarfile.ReadError("a header in it is damaged")

    def explain(self, error: BaseException) -> str:
        """Return why the tar cannot be read."""
        if not self._place:
            return "it is empty"
        for mark, how in _PACKED.items():
            if self._first.startswith(mark):
                return f"it is compressed ({how}); unpack it: images do not shrink further"
        if isinstance(error, RecursionError):
            return f"its headers are nested too deeply at byte {self._place:,}"
        if str(error) in ("unexpected end of data", "empty header", "truncated header"):
            return "it ends early"
        if self._place <= tarfile.BLOCKSIZE:
            return "it is no tar"
        return f"{error}, near byte {self._place:,}"
