"""Tests of ground truth in YOLO's labels."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest

from gtacli.data.objects import GroundTruth
from gtacli.data.truth import read_truth
from gtacli.images.decode import ImageError

SIZE = (40, 80)


def read(tmp_path: Path, text: str) -> GroundTruth:
    (tmp_path / "a.txt").write_text(text)
    return read_truth(tmp_path, PurePath("a.jpg"), SIZE)


@pytest.mark.parametrize("more", ["", " 0.93"])
def test_boxes(more: str, tmp_path: Path) -> None:
    truth = read(tmp_path, f"3 0.5 0.5 0.25 0.5{more}\n\n0 0.05 0.1 0.1 0.2\n")
    assert truth.labels is None
    assert truth.boxes == ((30, 10, 50, 30), (0, 0, 8, 8))


@pytest.mark.parametrize("more", ["", " 0.93"])
def test_the_border_of_a_polygon_belongs_to_it(more: str, tmp_path: Path) -> None:
    # Pixels 20 and 40, 10 and 20, as OpenCV fills them.
    labels = read(tmp_path, f"0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5{more}").labels
    assert labels is not None
    expected = np.zeros(SIZE, bool)
    expected[10:21, 20:41] = True
    assert (labels == expected).all()


def test_a_box_among_polygons_and_no_line_at_all(tmp_path: Path) -> None:
    labels = read(tmp_path, "0 0.1 0.1 0.1 0.2\n1 0.5 0.5 0.9 0.5 0.9 0.9\n").labels
    assert labels is not None
    assert np.unique(labels).tolist() == [0, 1, 2]
    empty = read(tmp_path, "").labels
    assert empty is not None
    assert not empty.any()


@pytest.mark.parametrize("text", ["a photograph of a heron", "0 0.5", "0 1 2 3 4", "0 nan 0 0 0"])
def test_other_texts_are_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.txt: line 1") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
