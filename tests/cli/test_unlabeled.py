"""Commands that need no labels read data that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COMMANDS = ["segment", "probe attention", "probe background", "embed", "discover"]


@pytest.fixture
def unlabeled(tmp_path: Path) -> Path:
    """Three images in photos/, one of them in its test/; a table of them and their masks."""
    rng = np.random.default_rng(0)
    rows = ["image,mask"]
    for i, name in enumerate(("a", "b", "test/c")):
        image, mask = (tmp_path / kind / f"{name}.png" for kind in ("photos", "masks"))
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        inside = np.zeros((40, 32), np.uint8)
        inside[5:20, 5 + i : 20] = 255
        Image.fromarray(rng.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(image)
        Image.fromarray(inside).save(mask)
        rows.append(f"photos/{name}.png,masks/{name}.png")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_without_labels(
    command: str, gta: Any, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    words = [*command.split(), "--data", str(unlabeled / "photos.csv"), "--workers", "0"]
    out = tmp_path / ("out.npz" if command == "embed" else "out")
    done = gta(*words, "-m", str(tiny_model), "-o", str(out), "--device", "cpu", "--json")
    assert done.status == 0, done.err
    assert count(command, done.lines) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_labels(
    command: str, gta: Any, tiny_model: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """All of its images are read, also those that no training may see."""
    words = [*command.split(), "--data", str(unlabeled / "photos"), "--workers", "0"]
    if command.startswith("probe"):
        words += ["--masks", str(unlabeled / "masks")]
    out = tmp_path / ("out.npz" if command == "embed" else "out")
    done = gta(*words, "-m", str(tiny_model), "-o", str(out), "--device", "cpu", "--json")
    assert done.status == 0, done.err
    # Of the test images, which are one here, with a background of its own.
    assert count(command, done.lines) == (1 if command == "probe background" else 3)


def count(command: str, lines: list[dict[str, Any]]) -> int:
    """Return how many images a command has read, by what it prints."""
    name = {"probe attention": "n_images", "probe background": "n_test"}.get(command, "images")
    last = lines[-1]
    return int(last.get("summary", last)[name])


def test_the_check_of_images_without_labels(gta: Any, unlabeled: Path) -> None:
    path = unlabeled / "photos"
    (path / "again.png").write_bytes((path / "test" / "c.png").read_bytes())
    assert gta("data", "check", str(path)).status == 2
    done = gta("data", "check", "folder", str(path), "--unlabeled", "--json")
    (report,) = done.lines
    assert done.status == 1
    assert (report["images"], report["classes"]) == (4, 0)
    assert {name: part["images"] for name, part in report["parts"].items()} == {
        "train": 3, "test": 1,
    }  # fmt: skip
    assert report["wrong"] == [
        "1 image is in more than one split, first again.png (train) and test/c.png (test)"
    ]
    shown = gta("data", "check", str(path), "--unlabeled").out
    assert "4 images, without labels" in shown
    assert "fewest" not in shown


def test_only_data_with_labels_have_several_of_them(gta: Any, unlabeled: Path) -> None:
    words = ["data", "check", str(unlabeled / "photos.csv"), "--unlabeled", "--multi-label"]
    done = gta(*words)
    assert done.status == 2
    assert "--multi-label" in done.err
