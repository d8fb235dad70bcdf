"""Outlines and run lengths of masks, against pycocotools and plain formulas."""

from __future__ import annotations

from itertools import chain, groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as official
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from gtacli.data.brush_lengths import decode_brush, encode_brush
from gtacli.data.objects import fill_outline
from gtacli.data.outlines import join, trace_borders, trace_centers
from gtacli.data.run_lengths import decode_runs, encode_runs

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
Mask = NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Noise, blobs with holes, and parts that meet at corners."""
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = ndimage.gaussian_filter(random.random(size), draw(st.sampled_from([0, 0.6, 1.5])))
    return noise > draw(st.sampled_from([-1, 0.3, 0.5, 0.7, 2]))


LARGE = np.zeros((300, 700), bool)
LARGE[100:, 3:] = True


@given(masks())
@example(LARGE)
def test_run_lengths_are_those_of_pycocotools(mask: Mask) -> None:
    text = encode_runs(mask)
    assert text == official.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert (decode_runs(text, mask.shape) == mask).all()


@given(masks())
def test_borders_enclose_exactly_the_pixels(mask: Mask) -> None:
    parts = trace_borders(mask)
    assert len(parts) == ndimage.label(mask)[1]
    drawn = np.zeros(mask.shape, np.int32)
    for rings in parts:
        one = np.zeros_like(drawn)
        fill_outline(one, join(rings).astype(np.float64), 1)
        drawn += one
    assert (drawn == mask).all()
    if parts:
        polygons = [join(rings).ravel().tolist() for rings in parts]
        runs = official.merge(official.frPyObjects(polygons, *mask.shape))
        assert (official.decode(runs) == mask).all()


@given(masks())
def test_the_lines_between_rings_are_the_shortest(mask: Mask) -> None:
    """Together as long as those of scipy's minimum spanning tree, there and back."""
    rings = [trace_centers(ring) for ring in chain.from_iterable(trace_borders(mask))]
    if len(rings) < 2:
        return
    between = np.array([[cdist(a, b, "chebyshev").min() for b in rings] for a in rings])
    # A graph without lengths of 0, which scipy takes for no line: rings may share pixels.
    expected = minimum_spanning_tree(np.triu(between + 1, 1)).sum() - (len(rings) - 1)

    def length(path: NDArray[np.int64]) -> float:
        return float(np.abs(np.roll(path, -1, axis=0) - path).max(1).sum())

    joined = length(join(rings)) - sum(map(length, rings))
    assert joined == pytest.approx(2 * expected)


@given(masks())
def test_centers_are_pixels_of_the_mask_along_its_border(mask: Mask) -> None:
    border = mask & ~ndimage.binary_erosion(mask)
    for ring in chain.from_iterable(trace_borders(mask)):
        path = trace_centers(ring)
        assert len(path) >= 3
        assert border[path[:, 1], path[:, 0]].all()
        steps = np.abs(np.roll(path, -1, axis=0) - path)
        diagonal = steps.min(axis=1) > 0
        assert (steps[diagonal] == 1).all()  # else straight, along the border


def brush(mask: Mask) -> list[int]:
    """Label Studio's code, a run at a time."""
    values = np.repeat(mask.ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{w - 1:04b}" for w in (3, 4, 8, 16))
    for value, run in groupby(values):
        length = len([*run])
        while length:
            part = min(length, 65536)
            kind, width = next((k, w) for k, w in enumerate((3, 4, 8, 16)) if part <= 1 << w)
            bits += f"1{kind:02b}{part - 1:0{width}b}{value:08b}"
            length -= part
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@given(masks())
@example(LARGE)
@example(np.ones((128, 128), bool))
@example(np.zeros((256, 256), bool))
def test_brush_strokes(mask: Mask) -> None:
    code = encode_brush(mask)
    assert code == brush(mask)
    assert (decode_brush(code, mask.shape) == mask).all()


def test_brush_strokes_of_different_values_in_a_row() -> None:
    head = f"{8:032b}" + f"{7:05b}" + "".join(f"{w - 1:04b}" for w in (3, 4, 8, 16))
    bits = head + "0" + "00" + "111" + "".join(f"{v:08b}" for v in (9, 9, 9, 0, 1, 2, 3, 4))
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(code, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "end too early"),
        ([0, 0, 0, 255, 58, 35, 127, 0], "another size"),
        ([256], "no list of bytes"),
        (brush(np.ones((4, 4), bool))[:-1], "end too early"),
        (brush(np.ones((4, 4), bool))[:7] + [255] * 9, "longer than the image"),
    ],
)
def test_damaged_brush_strokes(data: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_brush(data, (4, 4))
