"""Fixtures that create small image folders and datasets."""

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gtacli.data.base import Record


@pytest.fixture
def make_folder(make_image: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function (root, names) that writes an image under each name."""

    def make(root: Path, names: Iterable[str]) -> Path:
        for seed, name in enumerate(names):
            make_image(root / name, seed=seed)
        return root

    return make


@pytest.fixture
def records(tmp_path: Path, make_image: Callable[..., Path]) -> list[Record]:
    """Eleven images of three classes, in several sizes and orientations."""
    sizes = [(64, 48), (48, 64), (90, 40), (20, 24), (50, 50)]
    return [
        Record(f"{i}.png", i % 3, make_image(tmp_path / f"{i}.png", sizes[i % 5], seed=i))
        for i in range(11)
    ]


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], str]:
    """Return a function (name, root) that creates a small published dataset and returns its spec.

    It has 3 classes with 4 training and 2 test images each, and 1 validation image if the dataset
    has that split.
    """
    layouts = runpy.run_path(str(Path(__file__).with_name("layouts.py")))["LAYOUTS"]

    def make(name: str, root: Path) -> str:
        root.mkdir(parents=True, exist_ok=True)
        spec: str = layouts[name](root, monkeypatch)
        return spec

    return make
