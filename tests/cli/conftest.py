"""Running the command line as a user does, and in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gtacli.cli import main
from gtacli.discovery import Discovery, ObjectMaps
from gtacli.discovery.base import unit_range
from gtacli.registry import DISCOVERY


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The lines of JSON on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


Gta = Callable[..., Result]


@pytest.fixture
def gta(capsys: pytest.CaptureFixture[str]) -> Gta:
    """`gta("models", "list")` in this process."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


GRID = 4  # of the tiny model, 32 pixels


class Bright(Discovery[Any]):
    """What is brighter than the middle between dark and bright; as a plug-in would."""

    def find(self, images: Tensor) -> ObjectMaps:
        maps = unit_range(adaptive_avg_pool2d(images.mean(1), GRID))
        return ObjectMaps(maps, maps > 0.5)


@pytest.fixture
def bright() -> Iterator[None]:
    with DISCOVERY.registered("bright", Bright):
        yield


def _scene(path: Path, size: tuple[int, int] = (64, 96)) -> NDArray[np.bool_]:
    """Draw a picture (height, width) with an object of 2 x 1 patches; return its mask."""
    h, w = size
    mask = np.zeros(size, bool)
    mask[h // GRID : 3 * h // GRID, 2 * w // GRID : 3 * w // GRID] = True
    pixels = np.where(mask[..., None], (250, 240, 230), (10, 20, 30)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return mask


def _words(model: Path, out: Path, *images: object, backend: str = "bright") -> list[str]:
    shared = ["-m", str(model), "-o", str(out), "--backend", backend, "--device", "cpu"]
    return ["segment", *map(str, images), *shared]


def _read(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.fixture
def scene() -> Callable[..., NDArray[np.bool_]]:
    """(path, (height, width)): draws a picture with an object, and says where it is."""
    return _scene


@pytest.fixture
def words() -> Callable[..., list[str]]:
    """(model, out, *images, backend=): the words of a call of gta segment."""
    return _words


@pytest.fixture
def read() -> Callable[[str], NDArray[np.uint8]]:
    """Read a mask that was written."""
    return _read
