"""Tests of the input size of a model for an image of any shape."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gtacli.images.sizes import fit_aspect

sides = st.integers(1, 20_000)
grids = st.integers(1, 60)
patches = st.sampled_from([(16, 16), (14, 14), (8, 8), (16, 8)])


def test_familiar_shapes() -> None:
    assert fit_aspect((500, 500), (224, 224), (16, 16)) == (224, 224)
    assert fit_aspect((300, 400), (224, 224), (16, 16)) == (192, 256)
    assert fit_aspect((400, 300), (480, 480), (16, 16)) == (560, 416)
    assert fit_aspect((20, 20_000), (224, 224), (16, 16)) == (16, 196 * 16)


@given(sides, sides, grids, grids, patches)
@example(1, 20_000, 14, 14, (16, 16))
@example(1, 1, 1, 1, (16, 16))
def test_complete_patches_about_the_requested_number(
    h: int, w: int, rows: int, columns: int, patch: tuple[int, int]
) -> None:
    like = (rows * patch[0], columns * patch[1])
    height, width = fit_aspect((h, w), like, patch)
    assert height % patch[0] == 0
    assert width % patch[1] == 0
    gh, gw = height // patch[0], width // patch[1]
    assert 1 <= gh * gw <= max(1, rows * columns * 9 / 8)


@given(st.integers(40, 4000), st.integers(40, 4000), st.integers(10, 60))
def test_aspect_ratio_is_kept_within_half_a_patch(h: int, w: int, side: int) -> None:
    ratio = h / w
    if not 1 / 3 < ratio < 3:
        return
    height, width = fit_aspect((h, w), (side * 16, side * 16), (16, 16))
    gh, gw = height / 16, width / 16
    assert (gh - 1.01) / (gw + 1.01) <= ratio <= (gh + 1.01) / (gw - 1.01)
    assert gh * gw >= 0.8 * side * side
