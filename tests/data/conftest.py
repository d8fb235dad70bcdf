"""Small image folders, made on the spot. Helpers are fixtures, so that nothing imports this."""

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtacli.data.base import Record


def _image(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def _folder(root: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        _image(root / name, seed=seed)
    return root


@pytest.fixture
def make_image() -> Callable[..., Path]:
    """(path, (width, height), seed): writes a smooth picture, different for every seed."""
    return _image


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """(root, relative names): writes an image at each of the names."""
    return _folder


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Eleven images of three classes, of several sizes, wide and tall."""
    sizes = [(64, 48), (48, 64), (90, 40), (20, 24), (50, 50)]
    return [
        Record(f"{i}.png", i % 3, _image(tmp_path / f"{i}.png", sizes[i % 5], seed=i))
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
