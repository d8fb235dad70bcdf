"""Tests of data specs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from gtacli.data import DatasetReader, ImageDataset, Record, load_dataset
from gtacli.data.base import DatasetFamily
from gtacli.errors import GtaError
from gtacli.registry import DATASETS


class Zoo(DatasetFamily):
    """A family that stores the rest of the spec in the name."""

    usage = "zoo/NAME"

    def open(self, rest: str) -> ImageDataset:
        return ImageDataset(f"zoo of {rest}", ("a",), {"train": (Record("k", 0, Path("k")),)})


class Toy(DatasetReader):
    """A reader that stores its root in the name."""

    needs_root: ClassVar[bool] = False

    def read(self, root: Path | None) -> ImageDataset:
        return ImageDataset(f"toy of {root}", ("a",), {"train": (Record("k", 0, Path("k")),)})


def test_names_with_and_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]
) -> None:
    monkeypatch.chdir(make_folder(tmp_path, ["toy/a/1.png"]))
    with DATASETS.registered("toy", Toy):
        assert load_dataset("toy").name == "toy of None"  # not the folder of that name
        assert load_dataset("./toy").name == "toy"
        assert load_dataset("toy:some/where").name == f"toy of {Path('some/where')}"
        assert load_dataset("toy:").name == "toy of None"


def test_folder_precedes_a_reader_that_needs_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]
) -> None:
    monkeypatch.chdir(make_folder(tmp_path, ["cub/a/1.png"]))
    assert load_dataset("cub").classes == ("a",)


def test_family_gets_the_rest_of_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]
) -> None:
    monkeypatch.chdir(make_folder(tmp_path, ["zoo/cats/a/1.png"]))
    with DATASETS.registered("zoo", Zoo):
        assert load_dataset("zoo/cats").name == "zoo of cats"  # not the folder of that name
        assert load_dataset("./zoo/cats").name == "cats"
        assert load_dataset("zoo/https://x.org//y").name == "zoo of https://x.org//y"
        for spec in ("zoo:cats", "zoo:"):
            with pytest.raises(GtaError, match="write zoo/NAME"):
                load_dataset(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "data spec is empty"),
        ("./gone", "no such file or folder"),
        ("some/gone", "no such file or folder"),
        ("dmo", "no folder or file 'dmo'; .*did you mean 'demo'"),
        ("dmo:root", "did you mean 'demo'"),
        ("folder:gone", "no such folder: gone"),
        ("cub", "needs a folder"),
    ],
)
def test_invalid_specs_raise_one_line(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GtaError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_file_of_another_kind(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    with pytest.raises(GtaError, match=r"is a file; give a folder, a table"):
        load_dataset(str(make_image(tmp_path / "x.png")))
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(GtaError, match=r"photos\.zip is a file; unpack it"):
        load_dataset(str(tmp_path / "photos.zip"))


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, gtacli.data; print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.strip() == "set()"
