"""Tests of images of more than 8 bits a sample and of many bands."""

from __future__ import annotations

import importlib.util
import logging
import os
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from gtacli.errors import UsageError
from gtacli.images import depth
from gtacli.images.decode import ImageError, decode, read_upright_size


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "_told", set())
    monkeypatch.delenv("GTA_BANDS", raising=False)
    monkeypatch.delenv("GTA_VALUE_RANGE", raising=False)


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth colors, uint8 (40, 48, 3), of which white is the brightest."""
    y, x = np.mgrid[0:40, 0:48]
    return np.stack([x * 255 // 47, y * 255 // 39, (x + y) * 255 // 86], -1).astype(np.uint8)


def write_png16(path: Path, values: np.ndarray) -> Path:
    """Write uint16 (h, w, 3 or 4), which Pillow cannot, without filters."""
    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def write_gray(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["gray.png", "gray.tif", "color.png", "color.tif"])
def test_depth_in_use_is_found(
    tmp_path: Path, picture: np.ndarray, bits: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The image is that of 8 bits, whatever part of the 16 its camera uses."""
    deep = (picture.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    path = tmp_path / kind
    if kind.startswith("gray"):
        write_gray(path, deep[..., 0])
        expected = picture[..., :1].repeat(3, -1)
    else:
        write_png16(path, deep) if kind.endswith("png") else tifffile.imwrite(path, deep)
        expected = picture
    got = np.asarray(decode(path))
    assert got.shape == (40, 48, 3)
    assert np.abs(got.astype(int) - expected).max() <= 1
    said = f"0 to {2**bits - 1} become black to white"
    assert (said in caplog.text) == (bits < 16)
    caplog.clear()
    decode(path)
    assert not caplog.messages  # said once


def test_value_range_is_one_for_all(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = write_gray(tmp_path / "dark.png", (picture[..., 0] * np.uint16(3)))
    monkeypatch.setenv("GTA_VALUE_RANGE", "4095")
    assert np.asarray(decode(dark)).max() == round(765 * 255 / 4095)
    monkeypatch.setenv("GTA_VALUE_RANGE", "-1024:976")
    window = write_gray(tmp_path / "ct.tif", picture[..., 0].astype(np.float32) - 24)
    got = np.asarray(decode(window))[..., 0].astype(float)
    expected = (picture[..., 0].astype(float) - 24 + 1024) * 255 / 2000
    assert np.abs(got - expected).max() <= 0.5
    for wrong in ("high", "5:5", "9:3", "nan", "0:inf", ""):
        if wrong:
            with pytest.raises(UsageError, match="must be HIGH, or LOW:HIGH"):
                depth.read_value_range(wrong)


def test_alpha_of_sixteen_bits_is_on_white(tmp_path: Path, picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * 16  # 12 bits, with an alpha of all 16
    alpha = np.full((40, 48, 1), 65535, np.uint16)
    alpha[:20] = 0
    got = np.asarray(decode(write_png16(tmp_path / "x.png", np.concatenate([deep, alpha], -1))))
    assert (got[:20] == 255).all()
    assert np.abs(got[20:].astype(int) - picture[20:]).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_are_chosen(
    tmp_path: Path, dtype: type, planar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = np.stack([np.full((20, 30), 10 * (k + 1)) for k in range(7)]).astype(dtype)
    bands[:, 0, 0] = 255  # the range of each
    values = bands if planar == "separate" else np.moveaxis(bands, 0, -1)
    path = tmp_path / "satellite.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=planar)
    with pytest.raises(
        ImageError, match=r"satellite\.tif: it has 7 bands; name three with `bands`"
    ):
        decode(path)
    monkeypatch.setenv("GTA_BANDS", "4,3,2")
    assert np.asarray(decode(path))[9, 9].tolist() == [40, 30, 20]
    assert read_upright_size(path) == (20, 30)
    monkeypatch.setenv("GTA_BANDS", "7")
    assert np.asarray(decode(path))[9, 9].tolist() == [70, 70, 70]
    monkeypatch.setenv("GTA_BANDS", "4,3,8")
    with pytest.raises(ImageError, match="it has 7 bands, and `bands` asks for 8"):
        decode(path)
    monkeypatch.setenv("GTA_BANDS", "4,3")
    with pytest.raises(UsageError, match="GTA_BANDS: must be one or three band numbers"):
        decode(path)


def test_bands_of_an_ordinary_tiff_are_chosen_too(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = np.full((40, 48, 1), 7, np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", np.concatenate([picture, near], -1), photometric="rgb")
    monkeypatch.setenv("GTA_BANDS", "4,1,2")
    got = np.asarray(decode(tmp_path / "x.tif"))
    assert (got[..., 0] == 7).all()
    assert (got[..., 1:] == picture[..., :2]).all()


def write_lzw16(path: Path, values: np.ndarray) -> None:
    """Write uint16 (h, w, 3) as a TIFF of LZW codes that are all literals of 9 bits."""
    data = values.astype("<u2").tobytes()
    codes = [c for k in range(0, len(data), 200) for c in (256, *data[k : k + 200])] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    strip = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    height, width, _ = values.shape
    sizes = 8 + len(strip) + len(strip) % 2
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, sizes), (259, 3, 1, 5)]
    tags += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height)]
    tags += [(279, 4, 1, len(strip)), (284, 3, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    depths = struct.pack("<HHHH", 16, 16, 16, 0)
    start = struct.pack("<2sHI", b"II", 42, sizes + len(depths))
    path.write_bytes(start + strip.ljust(sizes - 8, b"\0") + depths + directory)


def test_lzw_is_read_by_its_upper_bytes_without_a_codec(
    tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """Pillow decodes what tifffile needs another package for."""
    write_lzw16(tmp_path / "x.tif", picture.astype(np.uint16) * 257)
    got = np.asarray(decode(tmp_path / "x.tif"))
    assert np.abs(got.astype(int) - picture).max() <= 1
    if importlib.util.find_spec("imagecodecs") is None:
        assert "x.tif: only the upper 8 of its 16 bits are read" in caplog.text


def test_options_reach_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_BANDS", "1")
    monkeypatch.setenv("GTA_VALUE_RANGE", "9")
    with depth.reading_as(None, "1:2"):
        assert depth.reading() == "1 1:2"
        assert os.environ["GTA_VALUE_RANGE"] == "1:2"
    assert depth.reading() == "1 9"
    with (
        pytest.raises(UsageError, match="bands: must be one or three"),
        depth.reading_as("0,1,2", None),
    ):
        pytest.fail("begins")
    assert depth.reading() == "1 9"


def test_many_bands_within_the_limit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((40, 50, 6), np.uint16), planarconfig="contig")
    monkeypatch.setenv("GTA_BANDS", "1,2,3")
    monkeypatch.setenv("GTA_MAX_PIXELS", "1000")
    with pytest.raises(ImageError, match="more than 1,000 pixels"):
        decode(path)


def test_reading_is_part_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gtacli.discovery.maps.digests import digest
    from gtacli.probing.features.cache import data_digest

    before = digest(b"x"), data_digest([])
    monkeypatch.setenv("GTA_BANDS", "4,3,2")
    after = digest(b"x"), data_digest([])
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_range_is_logged_by_name(
    tmp_path: Path, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    decode(write_gray(tmp_path / "scan.png", picture[..., 0] * np.uint16(16)))
    assert "scan.png has 16 bits and uses values to 4080" in caplog.text


def deep_png(samples: np.ndarray, color: int, kind: int = 0) -> bytes:
    """Return a PNG of 16 bits, (h, w, bands), whose rows say that they have a filter."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = samples.shape[:2]
    rows = b"".join(bytes([kind]) + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("color", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_all_bits_of_a_png(color: int, bands: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << 16, (13, 7, bands)).astype(np.uint16)
    file = BytesIO(deep_png(samples, color))
    with Image.open(file) as image:
        assert np.array_equal(depth._decode_png(image, file), samples)


@pytest.mark.parametrize("color", [2, 6])
def test_damaged_png_ends_no_process(
    color: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << 16, (32, 32, 3 + color // 6))
    path = tmp_path / "a.png"
    whole = deep_png(samples.astype(np.uint16), color)
    spots = range(41, len(whole) - 12, 97)  # of the pixels
    broken = [whole[:at] + bytes([255]) * 9 + whole[at + 9 :] for at in spots]
    for data in (deep_png(samples, color, kind=9), *broken):
        path.write_bytes(data)
        with suppress(ImageError):
            decode(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("side", "message"),
    [(12_000, "9 bands of 12000 x 12000 pixels are too many"), (0, "it has no pixels")],
)
def test_sizes_of_a_tiff_that_lie(
    side: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTA_BANDS", "1,2,3")
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((8, 8, 9), np.float64), planarconfig="contig", photometric="minisblack")
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little") + 2
    for entry in range(start, start + 12 * 20, 12):
        tag = int.from_bytes(data[entry : entry + 2], "little")
        if tag in (256, 257, 278):  # width, height, rows of a strip
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message):
        decode(path)
