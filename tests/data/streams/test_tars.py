"""Tests of tars that are read as streams, against the indexed reader and on hostile ones."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtacli.data.spec import find_stream
from gtacli.data.streams import tars
from gtacli.data.streams.samples import ShardEnd, ShardError, ShardImage, Unreadable
from gtacli.data.streams.stream import ImageStream
from gtacli.data.streams.tars import read_tar
from gtacli.data.unlabeled import load_images

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


class Bytes:
    """A source that only goes forward."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.largest = 0

    def read(self, size: int) -> bytes:
        self.largest = max(self.largest, size)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        self._file.seek(size, os.SEEK_CUR)


def tar(members: list[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def stream_of(spec: str) -> ImageStream:
    found = find_stream(spec)
    assert found is not None
    return found


def read(data: bytes, labels: bool = True) -> list[Any]:
    return list(read_tar(Bytes(data), labels))


NAMES = st.text(st.sampled_from("abé_-ü"), min_size=1, max_size=40)
SAMPLES = st.dictionaries(
    st.tuples(st.lists(NAMES, max_size=3), NAMES).map(lambda t: "/".join([*t[0], t[1]])),
    st.tuples(
        st.binary(max_size=1500),
        st.none() | st.integers(0, 99),
        st.sampled_from(["png", "JPG", "webp"]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(SAMPLES, st.sampled_from(FORMATS))
def test_a_stream_has_what_the_index_has(samples: dict[str, Any], kind: int) -> None:
    members, expected = [], []
    for key, (data, label, suffix, before) in samples.items():
        own = [(f"{key}.{suffix}", data)]
        if label is not None:
            own.insert(0 if before else 1, (f"{key}.cls", str(label).encode()))
        members += own
        expected.append((f"{key}.{suffix}", data, "" if label is None else str(label)))
    if kind == tarfile.USTAR_FORMAT:  # whose names are short
        long = {name for name, _ in members if len(name.encode()) > 99}
        members = [one for one in members if one[0] not in long]
        expected = [one for one in expected if one[0] not in long]
        members = [m for m in members if any(m[0].startswith(e[0].split(".")[0]) for e in expected)]
    data = tar(members, kind)
    found = read(data)
    assert [one[:3] for one in found] == expected
    for number, one in enumerate(found):  # a shard can be read from any of its samples
        rest = read_tar(Bytes(data[one.start :]), True, one.start)
        assert list(rest) == found[number:]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stream_equals_the_indexed_reader(
    kind: int, tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    image = make_image(tmp_path / "x.png").read_bytes()
    long = "d" * 90 if kind == tarfile.USTAR_FORMAT else "d" * 300
    for part in ("train", "val"):
        for number in range(2):
            file = tmp_path / f"s/{part}-{number}.tar"
            file.parent.mkdir(exist_ok=True)
            one = [
                (f"./{long}/{number}.PNG", image + b"%d" % number),
                (f"./{long}/{number}.cls", b"007\n"),
                ("._2.png", b"mac"), ("3.txt", b"no image"),
                ("2.png", image), ("2.json", b'{"label": 9}'), ("2.seg.png", b"mask"),
            ]  # fmt: skip
            file.write_bytes(tar(one, kind))
    spec = f"wds/{tmp_path / 's'}"
    indexed = [record for _, record in load_images(spec).records()]
    streamed = [one for one in stream_of(spec).images() if isinstance(one, ShardImage)]
    assert [(s.image.name, s.image.data) for s in streamed if s.split == "train"] == [
        (str(r.path), r.open().read()) for r in indexed if "train" in r.key
    ]
    assert [one.label for one in streamed] == ["007", "9"] * 4
    assert [one.split for one in streamed] == ["train"] * 4 + ["val"] * 4
    (tmp_path / "s/classes.txt").write_text("\n".join("abcdefghij"))
    labels = [one.label for one in stream_of(spec).images() if isinstance(one, ShardImage)]
    assert labels == ["h", "j"] * 4


def header(name: str, size: int, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
GOOD = tar([("a.png", b"one")])[:1024]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"no tar at all" * 100, "it is no tar"),
    "gzip": (b"\x1f\x8b" + bytes(2000), r"compressed \(gzip\)"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(2000), r"compressed \(zstd\)"),
    "cut in a header": (GOOD + header("b.png", 3)[:200], "ends early"),
    "cut in an image": (GOOD + header("b.png", 3000) + b"xx", "ends early"),
    "cut in another member": (GOOD + header("b.txt", 3000) + b"xx", "ends early"),
    "without an end": (GOOD, "ends early"),
    "a damaged header": (GOOD + b"\xff" * 512 + END, "a header in it is damaged"),
    "a size that lies": (GOOD + header("b.png", 1 << 60) + b"xx", "ends early"),
    "a long name that lies": (
        GOOD + header("././@LongLink", 1 << 40, type=tarfile.GNUTYPE_LONGNAME),
        "a header in it says that it has",
    ),
    "pax headers that lie": (
        GOOD + header("x", 1 << 40, type=tarfile.XHDTYPE),
        "a header in it says that it has",
    ),
    "nested headers": (
        GOOD + (header("x", 10, type=tarfile.XHDTYPE) + b"10 a=bbbb\n" + bytes(502)) * 3000,
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_end_with_one_line(name: str) -> None:
    data, said = HOSTILE[name]
    with pytest.raises(ShardError, match=said) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "Error" not in str(caught.value)


def test_a_negative_size_ends_the_tar() -> None:
    raw = bytearray(header("b.png", 0))
    raw[124:136] = b"\xff" * 8 + (-2000).to_bytes(4, "big", signed=True)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    with pytest.raises(ShardError):
        read(GOOD + bytes(raw) + END)


def test_odd_members_are_passed_over() -> None:
    """Links, devices and folders are no images, and a name with dots is only a name."""
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    links = b"".join(
        header(f"{i}.png", 0, type=kind, linkname="/etc/passwd") for i, kind in enumerate(kinds)
    )
    two = tar([("../../up.png", b"two"), (b"n\xff.png".decode("utf-8", "surrogateescape"), b"3")])
    found = read(links + GOOD + two)
    assert [(one.name, one.data) for one in found] == [
        ("a.png", b"one"), ("../../up.png", b"two"), ("n\udcff.png", b"3"),
    ]  # fmt: skip


def test_an_image_with_a_further_dot_in_its_name_is_said(
    tmp_path: Path, make_image: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """It is none of a sample; a mask beside its image is left out in silence."""
    image = make_image(tmp_path / "x.png").read_bytes()
    members = ["IMG.01.png", "IMG.02.png", "good.png", "good.seg.png", "Mr. B.png", "text.old.txt"]
    data = tar([(name, image) for name in members])
    one, good, other = read(data)
    text = "sample 'IMG' has no image: '01.png', after the first dot, is no suffix of one"
    assert one == Unreadable("IMG.01.png", f"{text}; rename its members")
    assert good.name == "good.png"
    assert (type(other), other.name) == (Unreadable, "Mr. B.png")
    (tmp_path / "s.tar").write_bytes(data)
    indexed = [record for _, record in load_images(f"wds/{tmp_path}/s.tar").records()]
    assert len(indexed) == 1
    assert f"s.tar: 2 samples are omitted: {text}" in caplog.text


def test_what_cannot_be_read_of_an_image_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "LARGEST", 100)
    data = tar(
        [
            ("big.png", bytes(101)), ("1.png", b"x"), ("1.json", b"{"), ("2.png", b"x"),
            ("2.cls", b"\xff"), ("3.png", b"x"), ("3.json", b"{"), ("3.cls", b"5"),
        ]
    )  # fmt: skip
    big, one, two, three = read(data)
    assert big == Unreadable("big.png", "it has 101 bytes; at most 100 are read")
    assert one.name == "1.png"
    assert "its label 1.json cannot be read" in one.error
    assert "its label 2.cls" in two.error
    assert three[:3] == ("3.png", b"x", "5")
    assert [type(one) for one in read(data, labels=False)] == [Unreadable, *[tars.PackedMember] * 3]


@settings(max_examples=200)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=4), st.data())
def test_damaged_tars_never_raise_another_error(place: int, bytes_: bytes, data: Any) -> None:
    members = [(f"{i}.png", b"x" * 300) for i in range(4)]
    whole = bytearray(tar(members, data.draw(st.sampled_from(FORMATS))))
    whole[place : place + len(bytes_)] = bytes_
    cut = data.draw(st.integers(0, len(whole)))
    for variant in (bytes(whole), bytes(whole[:cut])):
        try:
            for one in read(variant):
                assert isinstance(one, tars.PackedMember | Unreadable)
        except ShardError:
            pass


def test_a_shard_of_many_members_takes_constant_memory() -> None:
    """Neither tarfile's list of members nor large reads."""
    data = tar([(f"{i}.png", b"x" * 10) for i in range(300)])
    source = Bytes(data)
    for _ in read_tar(source, labels=True):
        pass
    assert source.largest <= tarfile.BLOCKSIZE


def test_missing_and_damaged_shards_are_reported_in_turn(tmp_path: Path) -> None:
    for number in (0, 2, 3):
        (tmp_path / f"{number}.tar").write_bytes(tar([(f"{number}.png", b"x")]))
    whole = (tmp_path / "3.tar").read_bytes()
    (tmp_path / "3.tar").write_bytes(whole[:600])
    os.mkfifo(tmp_path / "4.tar")
    items = list(stream_of(f"wds/{tmp_path}/{{0..4}}.tar").items())
    said = [one.image.name if isinstance(one, ShardImage) else one[1] for one in items]
    assert said == [
        f"{tmp_path}/0.tar:0.png", 1,
        f"cannot read shard {tmp_path}/1.tar: there is no such file", 0,
        f"{tmp_path}/2.tar:2.png", 1,
        f"cannot read shard {tmp_path}/3.tar: it ends early", 0,
        f"cannot read shard {tmp_path}/4.tar: is a FIFO, not a file", 0,
    ]  # fmt: skip
    states = [one.state for one in items if isinstance(one, ShardEnd)]
    assert [state is not None for state in states] == [True, False, True, False, False]


def test_known_shards_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("0.png", b"x")]))
    stream = stream_of(f"wds/{tmp_path}/0.tar")
    _, end = stream.items()
    assert isinstance(end, ShardEnd)
    again = list(stream.items(known=lambda state: 7 if state == end.state else None))
    assert again == [ShardEnd(end.state, 7, known=True)]
    (tmp_path / "0.tar").write_bytes(tar([("0.png", b"y")]))
    assert len(list(stream.items(known=lambda state: 7 if state == end.state else None))) == 2
