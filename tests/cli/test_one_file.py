"""Tests of `-o FILE` for the result of a single image."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_image: Make) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / "in" / "a.png")


def files() -> list[str]:
    return sorted(os.listdir())


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("command", ["attention-map", "segment"])
def test_one_image_has_one_file(gta: Any, tiny_model: Path, command: str) -> None:
    done = gta(command, "in/a.png", "-m", str(tiny_model), "-o", "new/map.png", "--json")
    assert done.status == 0
    assert done.lines[0]["mask" if command == "segment" else "output"] == "new/map.png"
    assert os.listdir("new") == ["map.png"]
    with Image.open("new/map.png") as drawn:
        assert drawn.size == (40, 30)


def test_an_array_and_several_maps(gta: Any, tiny_model: Path) -> None:
    words = ("attention-map", "in/a.png", "-m", str(tiny_model))
    assert gta(*words, "-o", "a.npy", "--style", "raw").status == 0
    assert np.load("a.npy").shape == (3, 5)  # at its own aspect ratio
    assert gta(*words, "-o", "b.png", "--layer", "0,1").status == 0
    assert [name for name in files() if name[0] == "b"] == ["b.layer0.max.png", "b.layer1.max.png"]
    assert gta(*words, "-o", "c.png", "--dry-run").status == 0
    assert "c.png" not in files()


@pytest.mark.parametrize(
    ("images", "out", "error"),
    [
        (["in"], "x.png", "x.png names the file of one image; a folder holds the results of"),
        (["in/*.png"], "x.png", "x.png names the file of one image"),
        (["in/a.png", "in/a.png"], "x.png", "x.png names the file of one image"),
        (["in/a.png"], "in/a.png", "in/a.png is the image itself"),
        (["in/a.png"], "old.png", "old.png exists; --overwrite replaces it"),
    ],
)
def test_what_cannot_be_one_file(
    gta: Any, tiny_model: Path, images: list[str], out: str, error: str
) -> None:
    Path("old.png").write_bytes(b"kept")
    done = gta("attention-map", *images, "-m", str(tiny_model), "-o", out)
    assert done.status == 2
    assert f"error: --out: {error}" in done.err
    assert Path("old.png").read_bytes() == b"kept"


def test_a_folder_may_be_called_as_a_file(gta: Any, tiny_model: Path) -> None:
    Path("x.png").mkdir()
    assert gta("attention-map", "in/a.png", "-m", str(tiny_model), "-o", "x.png").status == 0
    assert "a.layer2.max.png" in os.listdir("x.png")


@pytest.mark.parametrize(("more", "told"), [((), True), (("--image-size", "96"), False)])
def test_models_of_different_sizes_are_told(
    gta: Any, tiny_model: Path, more: tuple[str, ...], told: bool
) -> None:
    models = ("-m", str(tiny_model), "--compare", "demo")
    done = gta("attention-map", "in/a.png", *models, "--dry-run", *more)
    assert ("see images of different sizes" in done.err) == told
