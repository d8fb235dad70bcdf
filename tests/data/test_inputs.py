"""Tests of the images of a command line and their relative paths."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image

from gtacli.data.inputs import iter_images, iter_paths
from gtacli.data.spec import load_dataset
from gtacli.errors import UsageError


def named(*arguments: str, stream: bytes = b"", nul: bool = False) -> list[tuple[str, str]]:
    found = iter_images(arguments, io.BytesIO(stream), nul)
    return [(image.path, image.below.as_posix()) for image in found]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("photos/a/1.jpg", "photos/a/deep/2.png", "photos/b/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", ["photos", "./photos/", "{root}/photos", "photos/a/../"])
def test_paths_are_relative_to_a_folder(given: str, photos: Path) -> None:
    found = named(given.format(root=photos))
    assert [below for _, below in found] == ["a/1.jpg", "a/deep/2.png", "b/1.jpg"]


def test_paths_are_relative_to_the_first_wildcard(photos: Path) -> None:
    assert named("photos/*/1.jpg") == [
        ("photos/a/1.jpg", "a/1.jpg"),
        ("photos/b/1.jpg", "b/1.jpg"),
    ]
    assert [below for _, below in named("photos/a/**/*.png")] == ["deep/2.png"]


def test_paths_are_relative_to_the_common_folder(photos: Path) -> None:
    assert named("photos/a/1.jpg") == [("photos/a/1.jpg", "1.jpg")]
    pair = named("photos/b/1.jpg", f"{photos}/photos/a/deep/2.png")
    assert [below for _, below in pair] == ["b/1.jpg", "a/deep/2.png"]
    mixed = named("photos/a/1.jpg", "photos/a", "missing.jpg")
    assert [b for _, b in mixed] == ["photos/a/1.jpg", "1.jpg", "deep/2.png", "missing.jpg"]


def test_paths_of_a_stream_keep_their_folders() -> None:
    stream = b"a/1.jpg\n/abs/2.jpg\n../up/3.jpg\na/../../4.jpg\n"
    assert [below for _, below in named("-", stream=stream)] == [
        "a/1.jpg",
        "abs/2.jpg",
        "up/3.jpg",
        "4.jpg",
    ]
    assert named("-", stream=b"a.jpg\r\nb.jpg\r\n") == [("a.jpg", "a.jpg"), ("b.jpg", "b.jpg")]
    assert named("-", stream=b"a.jpg\r\nb.jpg\r")[1] == ("b.jpg", "b.jpg")
    assert named("-", stream=b"a\r\0", nul=True) == [("a\r", "a\r")]
    assert named("-", stream=b"a b\n.jpg\0", nul=True) == [("a b\n.jpg", "a b\n.jpg")]


def test_plain_paths_and_no_images(photos: Path) -> None:
    assert [path for path, _ in named("photos/b", "x.jpg")] == ["photos/b/1.jpg", "x.jpg"]
    with pytest.raises(UsageError, match="no images"):
        named()
    with pytest.raises(UsageError, match=r"no image in \*\.gif"):
        named("*.gif")


def test_relative_paths_of_a_dataset_are_its_keys(tmp_path):
    from gtacli.data.base import ImageDataset, Record
    from gtacli.data.inputs import iter_dataset_images

    record = Record("test/a/one.jpg", 0, tmp_path / "test/a/one.jpg")
    first = Record("train/a/../two.jpg", 0, tmp_path / "two.jpg")
    images = list(
        iter_dataset_images(ImageDataset("x", ("a",), {"test": (record,), "train": (first,)}))
    )
    assert [str(image.below) for image in images] == ["train/two.jpg", "test/a/one.jpg"]
    assert [image.source for image in images] == [first.path, record.path]


def count_calls(work: Callable[[], object]) -> int:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_little_is_done_for_each_image_before_the_first_one(tmp_path: Path) -> None:
    """A hundred thousand files must not delay the first result by more than a second."""
    folder = tmp_path / "class"
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i}.png").touch()
    files = [str(path) for path in folder.iterdir()]
    assert count_calls(lambda: next(iter_images([str(tmp_path)], io.BytesIO()))) < 30_000
    assert count_calls(lambda: next(iter_paths(files, io.BytesIO()))) < 30_000
    assert count_calls(lambda: next(iter_images(files, io.BytesIO()))) < 40_000
    assert [*iter_paths(files, io.BytesIO())] == files
    few = tmp_path / "few"
    (few / "class").mkdir(parents=True)
    (few / "class" / "0.png").touch()
    many = tmp_path / "many"
    many.mkdir()
    folder.rename(many / "class")
    load_dataset(str(few))  # which imports the readers
    # Beside the images it reads what is installed, which differs from one environment to another.
    whole, rest = (count_calls(partial(load_dataset, str(root))) for root in (many, few))
    assert whole - rest < 65_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_an_image_on_stdin_is_said_to_be_one(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    for nul in (False, True):
        file.seek(0)
        with pytest.raises(UsageError, match="stdin is an image, and - reads the paths"):
            next(iter_paths(["-"], file, nul))


def test_paths_of_a_stream_are_names_of_this_system() -> None:
    """In the locale C a file system's names are bytes, and so are those of the stream."""
    code = (
        "import io; from gtacli.data.inputs import iter_paths\n"
        "(path,) = iter_paths(['-'], io.BytesIO(b'b\\xc3\\xa4.png\\n')); "
        "import os; print(ascii(path), os.path.exists(path))"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == r"'b\udcc3\udca4.png' False" + "\n"
