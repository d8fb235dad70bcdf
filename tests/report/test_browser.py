"""The report as a reader meets it, in Chromium."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli import attention, load_model
from gtacli.cli import main
from gtacli.images.decode import decode
from gtacli.rendering.heatmap import FAINT, STRONG

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *map(str, runs), "-o", str(file), "--quiet"]) == 0
    return file


PICTURE = """([row, tile]) => document.querySelectorAll('#maps .row')[row]
    .querySelectorAll('canvas')[tile].toDataURL()"""


def picture(page: Any, row: int, tile: int) -> np.ndarray:
    """RGBA (h, w, 4) of a tile's map; tile 0 is the source's."""
    text = page.evaluate(PICTURE, [row, tile]).partition(",")[2]
    return np.asarray(Image.open(BytesIO(base64.b64decode(text))))


def ready(page: Any) -> None:
    """Rows are built when they come near the screen."""
    page.locator("#maps .row").first.scroll_into_view_if_needed()
    page.locator("#maps .row canvas").first.wait_for()


def test_nothing_of_a_name_is_run_and_all_of_it_is_shown(
    visit: Visit, report: Path, classes: tuple[str, ...]
) -> None:
    page = visit(report)
    ready(page)
    assert page.title() != "pwned"
    titles = page.locator("#maps .row .title").all_text_contents()
    assert classes[1] in titles
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".plots canvas").count() >= 5
    assert "incomplete: 2 of 3 epochs" in page.locator(".results").inner_text()


def test_an_injected_script_would_not_run(visit: Visit, report: Path, tmp_path: Path) -> None:
    """The policy holds even if the escaping once did not."""
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", "<main><script>document.title='pwned'</script>"))
    said: list[str] = []
    page = visit(broken, said=said)
    ready(page)
    assert page.title() != "pwned"
    assert any("Content Security Policy" in text for text in said)


def test_the_maps_are_the_networks_own(visit: Visit, report: Path, runs: list[Path]) -> None:
    """Opacity grows with the attention: the last block's greatest head, enlarged by Pillow."""
    page = visit(report)
    ready(page)
    key = page.locator("#maps .row .name").first.get_attribute("title")
    image = decode(runs[0].parent / key)
    maps = []
    for spec in (runs[0].parent / "source", *runs):
        model = load_model(str(spec))
        (tap,) = attention(model.model, model.preprocess(image)[None])
        maps.append(tap.maps()[0].amax(0).detach().numpy())
    low, high = np.min(maps), np.max(maps)
    for tile, map_hw in enumerate(maps):
        unit = np.pad((map_hw - low) / (high - low), 2, mode="edge").astype(np.float32)
        wide = Image.fromarray(unit).resize((32, 32), Image.Resampling.BICUBIC)
        expected = np.asarray(wide)[8:24, 8:24].clip(0, 1) * (STRONG - FAINT) + FAINT
        assert np.abs(picture(page, 0, tile)[..., 3] / 255 - expected).max() < 0.02


def test_the_slider_changes_the_picture(visit: Visit, report: Path) -> None:
    page = visit(report)
    ready(page)
    before = picture(page, 0, 1)
    page.locator("#maps .layer").fill("0")
    assert page.locator("#maps output").inner_text() == "0"
    assert not np.array_equal(before, picture(page, 0, 1))
    page.locator("#maps .layer").fill("2")
    assert np.array_equal(before, picture(page, 0, 1))


def test_heads_change_the_picture(visit: Visit, report: Path) -> None:
    page = visit(report)
    ready(page)
    seen = []
    for choice in ("max", "mean", "0", "1", "2"):
        page.locator("#maps .heads").select_option(choice)
        seen.append(picture(page, 0, 1).tobytes())
    assert len(set(seen)) == 5


def test_a_click_shows_the_patch_s_attention_and_another_the_cls_token_s(
    visit: Visit, report: Path
) -> None:
    page = visit(report)
    ready(page)
    cls = picture(page, 0, 1)
    frame = page.locator("#maps .row .frame").first
    frame.click(position={"x": 5, "y": 5})
    patch = picture(page, 0, 1)
    assert not np.array_equal(cls, patch)
    assert page.locator("#maps .row .mark:visible").count() == 7
    box = frame.bounding_box()
    frame.click(position={"x": box["width"] - 5, "y": box["height"] - 5})
    assert not np.array_equal(patch, picture(page, 0, 1))
    page.locator("#maps .query:visible").click()
    assert np.array_equal(cls, picture(page, 0, 1))
    assert page.locator("#maps .row .mark:visible").count() == 0


def test_the_slider_moves_the_patch_s_attention_too(visit: Visit, report: Path) -> None:
    page = visit(report)
    ready(page)
    assert "in the slider's block" in page.locator("#maps .lead").inner_text()
    page.locator("#maps .row .frame").first.click(position={"x": 5, "y": 5})
    seen = []
    for block in ("2", "1", "0"):
        page.locator("#maps .layer").fill(block)
        seen.append(picture(page, 0, 1).tobytes())
    assert len(set(seen)) == 3


def test_a_network_can_be_put_aside(visit: Visit, report: Path) -> None:
    page = visit(report)
    ready(page)
    tiles = page.locator("#maps .row").first.locator(".tiles figure:visible")
    assert tiles.count() == 7  # image, source, five runs
    page.locator("#maps .columns input").first.uncheck()
    assert tiles.count() == 6


def test_the_legend_takes_lines_away_and_the_pointer_reads_values(
    visit: Visit, report: Path
) -> None:
    page = visit(report)
    plot = page.locator(".plots .u-over").first
    plot.hover()
    assert "epoch" in page.locator(".plots .tip:visible").inner_text()
    drawn = "() => document.querySelector('.plots canvas').toDataURL()"
    before = page.evaluate(drawn)
    page.locator(".legend button").first.click()
    page.mouse.move(0, 0)
    page.wait_for_function(f"before => ({drawn})() !== before", arg=before)


def test_answers_can_be_read_off_the_matrix(visit: Visit, report: Path) -> None:
    page = visit(report)
    choices = page.locator(".whose option").all_text_contents()
    assert choices[0].endswith("2 runs")
    assert "of 24 right" in page.locator(".matrix figcaption").inner_text()
    page.locator(".matrix canvas").hover(position={"x": 3, "y": 3})
    assert "right" in page.locator(".matrix figcaption").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(visit: Visit, report: Path, scheme: str) -> None:
    page = visit(report, width=360, scheme=scheme)
    ready(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_it_prints_with_its_pictures(visit: Visit, report: Path) -> None:
    page = visit(report)
    assert page.locator("#answers .worst canvas").count() == 0  # far below the screen
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("#answers .worst canvas").count() > 0


def test_a_small_page_says_what_it_lacks(visit: Visit, runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "small.html"
    assert main(["report", *map(str, runs), "-o", str(file), "--max-mb", "0.001", "-q"]) == 0
    page = visit(file)
    ready(page)
    told = page.locator("#maps .lead").inner_text()
    assert "every 48th block, and of the heads their mean and maximum" in told
    assert "Click" not in told
    assert page.locator("#maps .heads option").all_text_contents() == ["max", "mean"]
    before = picture(page, 0, 1)
    page.locator("#maps .row .frame").first.click()
    assert np.array_equal(before, picture(page, 0, 1))
    page.locator("#maps .heads").select_option("mean")
    assert not np.array_equal(before, picture(page, 0, 1))
