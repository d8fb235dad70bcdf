"""Tests of recorded values and of paths with a home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from gtacli.config.recorded import from_folder
from gtacli.config.segment import SegmentConfig


@pytest.fixture
def began(tmp_path: Path) -> Path:
    for name in ("photos", "shards", "a,b"):
        (tmp_path / name).mkdir()
    for name in ("birds.csv", "test.csv", "w.safetensors", "shards/t-000.tar"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        ("photos", "{}/photos"),
        ("a,b", "{}/a,b"),
        ("folder:photos", "folder:{}/photos"),
        ("vit@w.safetensors", "vit@{}/w.safetensors"),
        ("torch/pets:photos", "torch/pets:{}/photos"),
        ("birds.csv,test.csv", "{0}/birds.csv,{0}/test.csv"),
        ("birds.csv?image=photo,label=kind", "{}/birds.csv?image=photo,label=kind"),
        ("wds/shards", "wds/{}/shards"),
        ("wds/shards/t-{{000..001}}.tar", "wds/{}/shards/t-{{000..001}}.tar"),
        ("hfds/photos", "hfds/{}/photos"),
    ],
)
def test_a_relative_path_is_that_of_the_folder_where_the_run_began(
    value: str, moved: str, began: Path
) -> None:
    assert from_folder(value.format(), str(began)) == moved.format(began)


@pytest.mark.parametrize(
    "value",
    ["demo", "vit_tiny_patch16_224", "wds/t-{000..001}.tar", "birds.csv,other.csv", 3, None],
)
def test_what_is_no_path_there_stays(value: object, began: Path) -> None:
    assert from_folder(value, str(began)) == value
    assert from_folder(value, None) == value


@pytest.mark.parametrize("name", ["demo", "vit_tiny_patch16_224", "vit_small_patch16_224.dino"])
def test_a_name_stays_one_where_a_folder_is_called_so(name: str, began: Path) -> None:
    """As in `gta finetune --data demo --out demo`: the name goes before the folder."""
    (began / name).mkdir()
    assert from_folder(name, str(began)) == name
    assert from_folder(f"./{name}", str(began)) == str(began / name)


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell replaces it in `--out=~/masks`, nor in a recipe."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert SegmentConfig(out=Path("~/masks")).out == Path("/home/ada/masks")
