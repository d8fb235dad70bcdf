"""Small image folders, made on the spot. Helpers are fixtures, so that nothing imports this."""

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gtacli.data.base import Record


@pytest.fixture
def make_folder(make_image: Callable[..., Path]) -> Callable[..., Path]:
    """(root, relative names): writes an image at each of the names."""

    def make(root: Path, names: Iterable[str]) -> Path:
        for seed, name in enumerate(names):
            make_image(root / name, seed=seed)
        return root

    return make


@pytest.fixture
def records(tmp_path: Path, make_image: Callable[..., Path]) -> list[Record]:
    """Eleven images of three classes, of several sizes, wide and tall."""
    sizes = [(64, 48), (48, 64), (90, 40), (20, 24), (50, 50)]
    return [
        Record(f"{i}.png", i % 3, make_image(tmp_path / f"{i}.png", sizes[i % 5], seed=i))
        for i in range(11)
    ]


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], str]:
    """(name, root): a small set of 3 classes laid out as it is published; gives its data spec.

    4 images a class for training, 2 for testing, 1 for validation where the set has such a part.
    """
    layouts = runpy.run_path(str(Path(__file__).with_name("layouts.py")))["LAYOUTS"]

    def make(name: str, root: Path) -> str:
        root.mkdir(parents=True, exist_ok=True)
        spec: str = layouts[name](root, monkeypatch)
        return spec

    return make
