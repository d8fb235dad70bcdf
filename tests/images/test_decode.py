"""Tests of decoding: every mode, EXIF, broken files, sizes."""

import sys
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtacli.errors import UsageError
from gtacli.images import decode as decoding
from gtacli.images import depth, sizes
from gtacli.images.decode import ImageError, cover_size, decode, load, read_upright_size

RED, GREEN = (255, 0, 0), (0, 200, 0)


def pixels(path: Path) -> np.ndarray:
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_exif_orientation(tmp_path: Path) -> None:
    """Orientation 6: the camera was rotated; the stored left side is the top."""
    image = Image.new("RGB", (64, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    upright = pixels(tmp_path / "x.jpg")
    assert upright.shape == (64, 32, 3)
    assert np.abs(upright[8, 16] - RED).max() < 12
    assert np.abs(upright[56, 16] - GREEN).max() < 12
    assert load(tmp_path / "x.jpg", (8, 8)).shape == (16, 8, 3)


def test_unreadable_exif_is_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff\1\2")
    assert pixels(tmp_path / "x.jpg").shape == (8, 8, 3)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "x.jpg") - RED).max() < 12


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16", "F"])
def test_gray_of_every_depth(tmp_path: Path, mode: str) -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(4, 0)
    if mode == "I;16":
        Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "x.png")
    elif mode == "F":
        Image.fromarray(ramp).save(tmp_path / "x.tif")
    else:
        Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode).save(tmp_path / "x.png")
    got = pixels(next(tmp_path.glob("x.*")))
    assert (got[..., 0] == got[..., 2]).all()
    assert (got[0, 0] == 0).all()
    assert (got[0, -1] == 255).all()
    if mode != "1":
        assert np.abs(got[0, :, 0] - np.arange(256)).max() <= 1


def test_sixteen_bit_tiff(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(ramp[None].repeat(4, 0)).save(tmp_path / "x.tif")
    assert pixels(tmp_path / "x.tif")[0, :, 0].tolist() == [round(v / 257) for v in ramp.tolist()]


def test_nan_and_infinity_are_black(tmp_path: Path) -> None:
    """Depth and satellite images mark missing values so; the other pixels still count."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(4, 0)
    ramp[1], ramp[2], ramp[3] = np.nan, np.inf, -np.inf
    Image.fromarray(ramp).save(tmp_path / "x.tif")
    got = pixels(tmp_path / "x.tif")[..., 0]
    assert got[0].tolist() == [round(255 * k / 63) for k in range(64)]
    assert not got[1:].any()


def test_alpha_gets_a_white_background(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    image.save(tmp_path / "x.png")
    got = pixels(tmp_path / "x.png")
    assert got[0, 0].tolist() == [255, 0, 0]
    assert got[0, 7].tolist() == [255, 255, 255]


def test_palette_with_a_transparent_color(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 255, 0, 200, 0])
    image.paste(1, (0, 0, 4, 8))
    image.save(tmp_path / "x.gif", transparency=0)
    got = pixels(tmp_path / "x.gif")
    assert got[0, 0].tolist() == [0, 200, 0]
    assert got[0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_truncated_file_is_named_in_the_error(
    tmp_path: Path, suffix: str, make_image: Callable[..., Path]
) -> None:
    path = make_image(tmp_path / f"broken.{suffix}", (200, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"broken.{suffix}") as caught:
        decode(path)
    assert "\n" not in str(caught.value)


def test_a_text_file_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.jpg: not an image"):
        decode(tmp_path / "text.jpg")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png"):
        decode(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="no such image"):
        decode(tmp_path / "gone.png")
    with pytest.raises(ImageError) as caught:
        decode(tmp_path)
    assert str(caught.value) == f"cannot read image {tmp_path}: Is a directory"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.mp4", "a video; save its frames"),
        ("x.PDF", "a drawing; export it as PNG"),
        ("x.dcm", "a DICOM file"),
        ("x.cr2", "a camera's raw file; export it"),
    ],
)
def test_files_that_are_no_images_are_named(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"II*\0 no image")
    with pytest.raises(ImageError, match=f"{name}: {message}"):
        decode(tmp_path / name)


def test_thumbnail_of_a_raw_file_is_not_the_image(tmp_path: Path) -> None:
    """A DNG is a TIFF whose first picture is small."""
    Image.new("RGB", (16, 12)).save(tmp_path / "x.tif")
    (tmp_path / "x.tif").rename(tmp_path / "x.dng")
    with pytest.raises(ImageError, match=r"x\.dng: a camera's raw file; export it as JPEG or TIFF"):
        decode(tmp_path / "x.dng")


def test_address_is_said_to_be_one() -> None:
    with pytest.raises(ImageError, match="is an address: images are read from files, download it"):
        decode(Path("https://example.com/a.jpg"))


def test_draft_mode_hardly_changes_pixels(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    path = make_image(tmp_path / "x.jpg", (1000, 800))
    assert decode(path, (100, 100)).size == (250, 200)  # a quarter: twice the requested size
    assert decode(path, (400, 400)).size == (1000, 800)
    drafted = load(path, (100, 100)).astype(int)
    full = np.asarray(decode(path).resize((125, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(drafted - full).mean() < 1


@pytest.mark.parametrize(
    ("size", "cover", "expected"),
    [
        ((300, 400), (150, 150), (150, 200)),
        ((400, 300), (150, 150), (200, 150)),
        ((100, 400), (50, 300), (75, 300)),
        ((40, 30), (150, 150), (40, 30)),
        ((10000, 3), (2, 2), (6667, 2)),
    ],
)
def test_cover_size(
    size: tuple[int, int], cover: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert cover_size(*size, cover) == expected


def test_cover_size_may_enlarge() -> None:
    assert cover_size(40, 30, (60, 60), enlarge=True) == (80, 60)


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_upright_size_equals_the_decoded_size(tmp_path: Path, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    decoded = decode(tmp_path / "a.jpg")
    assert read_upright_size(tmp_path / "a.jpg") == (decoded.height, decoded.width)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"cannot read image .*b.jpg"):
        read_upright_size(tmp_path / "b.jpg")


READERS: tuple[Callable[[Path], object], ...] = (decode, read_upright_size)


@pytest.mark.parametrize("read", READERS)
def test_image_of_too_many_pixels_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    text = "bomb.png: it has more than {} pixels; the environment variable GTA_MAX_PIXELS sets"
    with pytest.raises(ImageError, match=text.format("178,956,970")):
        read(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # our own limit does not rest on Pillow's
    with pytest.raises(ImageError, match=text.format("178,956,970")):
        read(tmp_path / "bomb.png")
    monkeypatch.setenv("GTA_MAX_PIXELS", "1000")
    Image.new("1", (32, 32)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match=text.format("1,000")):
        read(tmp_path / "bomb.png")


def test_pixel_limit_can_be_raised_and_must_be_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    Image.new("L", (16, 16)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="more than 100 pixels"):
        decode(tmp_path / "x.png")
    monkeypatch.setenv("GTA_MAX_PIXELS", "256")
    assert decode(tmp_path / "x.png").size == (16, 16)
    for wrong in ("many", "0", "-5", "1e9"):
        monkeypatch.setenv("GTA_MAX_PIXELS", wrong)
        with pytest.raises(UsageError, match="GTA_MAX_PIXELS: must be a number of pixels"):
            decode(tmp_path / "x.png")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    """Pillow gives it to Ghostscript, whatever the file's suffix."""
    Image.new("L", (8, 8)).save(tmp_path / "x.eps")
    with pytest.raises(ImageError, match=r"x\.png: EPS is not read: it is a program"):
        decode((tmp_path / "x.eps").rename(tmp_path / "x.png"))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_deep_gray_is_converted_in_bands(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    values = (np.random.default_rng(0).random((37, 21)) * 60_000).astype(kind)
    values[3, 4] = 0 if kind is np.uint16 else np.nan
    whole = np.asarray(sizes.to_upright_rgb(Image.fromarray(values)))
    monkeypatch.setattr(depth, "_VALUES_AT_ONCE", 50)
    assert (np.asarray(sizes.to_upright_rgb(Image.fromarray(values))) == whole).all()


def test_deep_gray_takes_little_more_memory_than_its_pixels() -> None:
    image = Image.fromarray(np.full((6000, 6000), 300, np.uint16))
    tracemalloc.start()
    sizes.to_upright_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 6000 * 6000


def _tiff(compression: str, at: int, change: bytes) -> bytes:
    """Return an encoded TIFF with some bytes changed."""
    rng = np.random.default_rng(0)
    file = BytesIO()
    image = Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8))
    if compression == "group4":
        image = image.convert("1")
    image.save(file, "TIFF", compression=compression)
    data = bytearray(file.getvalue())
    data[at : at + len(change)] = change
    return bytes(data)


@pytest.mark.parametrize(
    ("compression", "at"), [("group4", 12), ("tiff_adobe_deflate", 40), ("packbits", 100)]
)
def test_libraries_do_not_write_to_stderr(
    compression: str, at: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(_tiff(compression, at, b"\xff" * 40))
    with suppress(ImageError):
        decode(path)
    assert capfd.readouterr().err == ""


def test_pillows_warnings_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = _tiff("raw", 0, b"")
    start = int.from_bytes(data[4:8], "little")  # of the directory
    for entry in range(start + 2, len(data) - 12, 12):
        if data[entry : entry + 2] == (279).to_bytes(2, "little"):
            data = data[: entry + 4] + (1 << 20).to_bytes(4, "little") + data[entry + 8 :]
            break
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_upright_size(path) == (32, 32)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_read(
    tmp_path: Path, make_image: Callable[..., Path], progressive: bool
) -> None:
    with Image.open(make_image(tmp_path / "whole.png", (200, 160))) as image:
        image.convert("RGB").save(tmp_path / "whole.jpg", progressive=progressive, quality=90)
    data = (tmp_path / "whole.jpg").read_bytes()
    whole = np.asarray(decode(tmp_path / "whole.jpg"))
    said: list[str] = []
    (tmp_path / "short.jpg").write_bytes(data[:-2])
    assert (np.asarray(decode(tmp_path / "short.jpg", tell=said.append)) == whole).all()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 9 // 10])
    cut = np.asarray(decode(tmp_path / "cut.jpg", tell=said.append))
    assert np.abs(cut[:100].astype(int) - whole[:100]).mean() < 8
    assert [line.split(" lacks")[0] for line in said] == [
        str(tmp_path / name) for name in ("short.jpg", "cut.jpg")
    ]
    (tmp_path / "head.jpg").write_bytes(data[: data.index(b"\xff\xda") + 20])
    with pytest.raises(ImageError, match=r"head\.jpg: .*truncated"):
        decode(tmp_path / "head.jpg")


def test_heic_is_read_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), RED).save(tmp_path / "x.heic", quality=95)
    for opened in ("HEIF",):
        monkeypatch.delitem(Image.OPEN, opened)
        monkeypatch.setattr(Image, "ID", [one for one in Image.ID if one != opened])
    assert np.abs(np.asarray(decode(tmp_path / "x.heic")).astype(int) - RED).max() < 12


def test_heic_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [one for one in Image.ID if one != "HEIF"])
    with pytest.raises(ImageError, match=r"x\.heic: HEIC needs a decoder \(pip install 'gtacli"):
        decode(tmp_path / "x.heic")
