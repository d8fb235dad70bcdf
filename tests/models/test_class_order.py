"""Tests of the order in which timm's training numbers classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from gtacli.models.class_order import other_order


@pytest.mark.parametrize(
    "classes", [("1", "10", "2"), ("Banana", "apple"), ("a", "b"), ("c1", "c2", "c3"), ()]
)
def test_classes_that_timm_numbers_differently(tmp_path: Path, classes: tuple[str, ...]) -> None:
    for name in classes:
        (tmp_path / name).mkdir()
        Image.new("RGB", (1, 1)).save(tmp_path / name / "a.png")
    of_timm = tuple(find_images_and_targets(str(tmp_path))[1]) if classes else ()
    clause = other_order(classes)
    assert bool(clause) is (of_timm != classes)
    if clause:
        first = next(i for i, name in enumerate(classes) if of_timm[i] != name)
        assert f"number {of_timm[first]!r} as class {first}," in clause
        assert f"this dataset has {classes[first]!r}" in clause


@given(st.lists(st.text(), unique=True))
def test_any_names_can_be_ordered(classes: list[str]) -> None:
    assert not other_order(sorted(classes)) or len(classes) > 1
