"""Tests of the drawn datasets, mostly with few images."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtacli.data import load_dataset
from gtacli.demo import dataset as readers
from gtacli.demo.dataset import Demo
from gtacli.errors import GtaError
from gtacli.scenes.digest import digest_of
from gtacli.scenes.draw import draw_world
from gtacli.scenes.scene import paint
from gtacli.scenes.scenery import SCENERY
from gtacli.scenes.world import DEMO, DEMO_SOURCE, RELATIVES, SIZE, World

SMALL = replace(DEMO, counts={"train": 2, "test": 1})
WORLDS = pytest.mark.parametrize("world", [DEMO, DEMO_SOURCE], ids=lambda world: world.name)


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(Demo, "world", SMALL)
    monkeypatch.setenv("GTA_CACHE", str(tmp_path))
    return tmp_path


@WORLDS
def test_every_species_and_every_scenery_are_drawn(world: World) -> None:
    """Masks cover a plausible fraction of the image, and the same seed draws the same image."""
    sceneries = [*SCENERY]
    for number, species in enumerate(world.species):
        for index in (number, number + 1):
            scenery = sceneries[index % len(sceneries)]
            image, mask = paint(species, scenery, np.random.default_rng(index))
            assert (image.size, image.mode, mask.mode) == ((SIZE, SIZE), "RGB", "L")
            inside = np.asarray(mask) > 0
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            assert 0.04 < inside.mean() < 0.5
            again, _ = paint(species, scenery, np.random.default_rng(index))
            assert image.tobytes() == again.tobytes()


@WORLDS
def test_masks_cover_the_creature(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that are equal on a black and on a white ground belong to the creature."""
    for species in world.species:
        shots = []
        for ground in (0, 255):
            flat = np.full((SIZE, SIZE, 3), ground, np.float32)
            monkeypatch.setitem(SCENERY, "flat", lambda size, rng, flat=flat: flat)
            image, mask = paint(species, "flat", np.random.default_rng(3))
            shots.append(np.asarray(image).astype(int))
        same = np.abs(shots[0] - shots[1]).max(axis=-1) < 60
        assert (same == (np.asarray(mask) > 0)).mean() > 0.97


@WORLDS
def test_scenery_depends_on_the_class_in_training_only(world: World) -> None:
    names = tuple(SCENERY)
    for label in range(12):
        train = Counter(world.scenery("train", label, i) for i in range(world.counts["train"]))
        own = train[names[label]] / world.counts["train"]
        assert own == (pytest.approx(0.9) if world is DEMO else pytest.approx(1 / 12, abs=0.01))
    for split in ("test",) if world is DEMO else ("train", "test"):
        every = Counter(
            (label, world.scenery(split, label, index))
            for label in range(12)
            for index in range(world.counts[split])
        )
        assert len(every) == 144
        assert max(every.values()) - min(every.values()) <= 1


def test_worlds_share_no_class() -> None:
    names = [species.name for world in (DEMO, DEMO_SOURCE) for species in world.species]
    assert len(set(names)) == 12 + 4 * len(RELATIVES) == 60
    assert not {s.draw for s in DEMO.species} & {s.draw for s in DEMO_SOURCE.species}


def test_dataset_is_drawn_once_and_reproducible(
    small_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = load_dataset("demo")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 24, "test": 12}
    assert data.classes == tuple(species.name for species in DEMO.species)
    for _, record in data.records():
        assert record.path.is_file()
        assert record.mask is not None
        assert record.mask.is_file()
        assert data.classes[record.label] == record.key.split("/")[1]
    first = data["train"][0].path
    changed = first.stat().st_mtime_ns
    assert load_dataset("demo").fingerprint() == data.fingerprint()
    assert first.stat().st_mtime_ns == changed
    assert not list((small_demo / "data").glob(".*"))  # no draft is left behind
    elsewhere = load_dataset(f"demo:{tmp_path_factory.mktemp('other')}")
    for here, there in zip(data.records(), elsewhere.records(), strict=True):
        assert here[1].path.read_bytes() == there[1].path.read_bytes()


def test_scenes_csv_lists_all_images(tmp_path: Path) -> None:
    draw_world(SMALL, tmp_path)
    with (tmp_path / "scenes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert all((tmp_path / row["key"]).is_file() for row in rows)
    assert rows[0] == {
        "key": "train/crested-pip/000.png", "class": "crested-pip", "scenery": "meadow",
    }  # fmt: skip


def test_interrupted_drawing_leaves_no_files(
    small_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(world: World, folder: Path) -> None:
        (folder / "train").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(readers, "draw_world", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("demo")
    assert list((small_demo / "data").iterdir()) == []
    assert len(load_dataset("demo")["train"]) == 24


def test_another_process_drew_first(small_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(world: World, folder: Path) -> None:
        draw_world(world, folder)
        other = folder.parent / f"demo-{readers.drawing_digest()}"
        other.mkdir()
        (other / "theirs").touch()

    monkeypatch.setattr(readers, "draw_world", both)
    load_dataset("demo")
    assert [path.name for path in (small_demo / "data").iterdir()] == [
        f"demo-{readers.drawing_digest()}"
    ]


def test_error_for_an_unwritable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GTA_CACHE", str(tmp_path / "file"))
    with pytest.raises(GtaError, match=r"cannot write to .*; set GTA_CACHE"):
        load_dataset("demo")


def test_digest_depends_on_code_but_not_on_line_endings(tmp_path: Path) -> None:
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_bytes(b"x = 1\n")
    other.write_bytes(b"x = 1\r\n")
    assert digest_of([one]) == digest_of([other])
    other.write_bytes(b"x = 2\n")
    assert digest_of([one]) != digest_of([other])


@pytest.mark.slow
def test_whole_dataset(tmp_path: Path) -> None:
    data = Demo().read(tmp_path)
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 480, "test": 240}
    contents = {record.path.read_bytes() for _, record in data.records()}
    assert len(contents) == 720
    with Image.open(data["test"][0].path) as image:
        assert image.size == (96, 96)
