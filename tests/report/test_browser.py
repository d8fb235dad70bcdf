"""The report in Chromium."""

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
    """Return a tile's map as RGBA (h, w, 4); tile 0 belongs to the source."""
    text = page.evaluate(PICTURE, [row, tile]).partition(",")[2]
    return np.asarray(Image.open(BytesIO(base64.b64decode(text))))


def show_maps(page: Any) -> None:
    """Scroll to the maps: a row is built when it comes near the screen."""
    page.locator("#maps .row").first.scroll_into_view_if_needed()
    page.locator("#maps .row canvas").first.wait_for()


def test_names_are_shown_as_text_and_never_run(
    visit: Visit, report: Path, classes: tuple[str, ...]
) -> None:
    page = visit(report)
    show_maps(page)
    assert page.title() != "pwned"
    titles = page.locator("#maps .row .title").all_text_contents()
    assert classes[1] in titles
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".plots canvas").count() >= 5
    assert "incomplete: 2 of 3 epochs" in page.locator(".results").inner_text()


def test_content_security_policy_blocks_an_injected_script(
    visit: Visit, report: Path, tmp_path: Path
) -> None:
    """The policy is a second defense in addition to escaping."""
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", "<main><script>document.title='pwned'</script>"))
    messages: list[str] = []
    page = visit(broken, messages=messages)
    show_maps(page)
    assert page.title() != "pwned"
    assert any("Content Security Policy" in text for text in messages)


def stored(maps: np.ndarray) -> np.ndarray:
    """Return a block's maps as the page has them: halves, in 256 steps of a square root."""
    maps = maps.astype(np.float16).astype(np.float32)
    low, high = maps.min(), maps.max()
    return low + (np.rint(np.sqrt((maps - low) / (high - low)) * 255) / 255) ** 2 * (high - low)


def test_maps_show_the_attention_of_the_models(
    visit: Visit, report: Path, runs: list[Path]
) -> None:
    """Opacity is the maximum over heads in the last block, enlarged as Pillow does."""
    page = visit(report)
    show_maps(page)
    key = page.locator("#maps .row .name").first.get_attribute("title")
    image = decode(runs[0].parent / key)
    maps = []
    for spec in (runs[0].parent / "source", *runs):
        model = load_model(str(spec))
        (tap,) = attention(model.model, model.preprocess(image)[None])
        maps.append(stored(tap.maps()[0].detach().numpy()).max(0))
    low, high = np.min(maps), np.max(maps)
    for tile, map_hw in enumerate(maps):
        unit = np.pad((map_hw - low) / (high - low), 2, mode="edge").astype(np.float32)
        wide = Image.fromarray(unit).resize((32, 32), Image.Resampling.BICUBIC)
        expected = np.asarray(wide)[8:24, 8:24].clip(0, 1) * (STRONG - FAINT) + FAINT
        assert np.abs(picture(page, 0, tile)[..., 3] / 255 - expected).max() < 0.01


def test_slider_selects_the_block(visit: Visit, report: Path) -> None:
    page = visit(report)
    show_maps(page)
    before = picture(page, 0, 1)
    page.locator("#maps .block").fill("0")
    assert page.locator("#maps output").inner_text() == "0"
    assert not np.array_equal(before, picture(page, 0, 1))
    page.locator("#maps .block").fill("2")
    assert np.array_equal(before, picture(page, 0, 1))


def test_select_box_selects_the_heads(visit: Visit, report: Path) -> None:
    page = visit(report)
    show_maps(page)
    pictures = []
    for choice in ("max", "mean", "0", "1", "2"):
        page.locator("#maps .heads").select_option(choice)
        pictures.append(picture(page, 0, 1).tobytes())
    assert len(set(pictures)) == 5


def test_click_shows_the_attention_of_a_patch(visit: Visit, report: Path) -> None:
    page = visit(report)
    show_maps(page)
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


def test_slider_selects_the_block_of_a_patch_s_attention(visit: Visit, report: Path) -> None:
    page = visit(report)
    show_maps(page)
    assert "in the selected block" in page.locator("#maps .lead").inner_text()
    page.locator("#maps .row .frame").first.click(position={"x": 5, "y": 5})
    pictures = []
    for block in ("2", "1", "0"):
        page.locator("#maps .block").fill(block)
        pictures.append(picture(page, 0, 1).tobytes())
    assert len(set(pictures)) == 3


def test_models_can_be_hidden(visit: Visit, report: Path) -> None:
    page = visit(report)
    show_maps(page)
    tiles = page.locator("#maps .row").first.locator(".tiles figure:visible")
    assert tiles.count() == 7  # image, source, five runs
    page.locator("#maps .columns input").first.uncheck()
    assert tiles.count() == 6


def test_legend_hides_curves_and_pointer_shows_values(visit: Visit, report: Path) -> None:
    page = visit(report)
    plot = page.locator(".plots .u-over").first
    plot.hover()
    assert "epoch" in page.locator(".plots .tip:visible").inner_text()
    drawn = "() => document.querySelector('.plots canvas').toDataURL()"
    before = page.evaluate(drawn)
    page.locator(".legend button").first.click()
    page.mouse.move(0, 0)
    page.wait_for_function(f"before => ({drawn})() !== before", arg=before)


def test_matrix_shows_counts(visit: Visit, report: Path) -> None:
    page = visit(report)
    choices = page.locator(".whose option").all_text_contents()
    assert choices[0].endswith("2 runs")
    lead = page.locator("#predictions .what").inner_text()
    assert lead.startswith("The true classes of 24 test images, one run after the other, and those")
    assert choices[0] in lead
    assert "of 24 correct" in page.locator(".matrix figcaption").inner_text()
    page.locator(".matrix canvas").hover(position={"x": 3, "y": 3})
    assert "correct" in page.locator(".matrix figcaption").inner_text()


def test_classes_with_the_lowest_accuracy_come_first(visit: Visit, report: Path) -> None:
    page = visit(report)
    page.locator("#predictions select").select_option("0")
    table = page.locator("#predictions .by-class")
    assert table.locator("th").all_text_contents() == ["correct, %", "images", "class"]
    rows = [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]
    shares = [float(row[0]) for row in rows]
    assert len(rows) > 1
    assert shares == sorted(shares)
    assert sum(int(row[1]) for row in rows) == 24
    mean = float(page.locator(".matrix figcaption").inner_text().split()[-2])
    assert mean == pytest.approx(sum(shares) / len(shares), abs=0.1)


def test_matrix_names_rows_and_columns_and_writes_the_counts(
    visit: Visit, report: Path, classes: tuple[str, ...]
) -> None:
    page = visit(report)
    for names in page.locator(".matrix .names").all():
        assert names.locator("span").all_text_contents() == sorted(classes)
    cells = page.locator(".matrix .counts span").all_text_contents()
    assert sum(map(int, cells)) == 24  # two runs on twelve images
    assert page.locator(".matrix .axis").all_text_contents() == ["predicted class", "true class"]


def test_a_table_fits_a_laptop_and_says_on_a_phone_that_it_scrolls(
    visit: Visit, report: Path
) -> None:
    wide = "e => e.scrollWidth > e.clientWidth"
    page = visit(report, width=1280)
    table = page.locator("#results .scroll")
    assert not table.evaluate(wide)
    assert page.locator(".hint.wide:visible").count() == 0
    phone = visit(report, width=360)
    table = phone.locator("#results .scroll")
    assert table.evaluate(wide)
    assert "sideways" in phone.locator("#results .hint.wide:visible").inner_text()
    assert table.evaluate("e => e.tabIndex") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_width_of_a_phone(visit: Visit, report: Path, scheme: str) -> None:
    page = visit(report, width=360, scheme=scheme)
    show_maps(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_printed_page_contains_all_pictures(visit: Visit, report: Path) -> None:
    page = visit(report)
    assert page.locator("#predictions .worst canvas").count() == 0  # far below the screen
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("#predictions .worst canvas").count() > 0


def test_a_small_page_states_what_it_omits(visit: Visit, runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "small.html"
    assert main(["report", *map(str, runs), "-o", str(file), "--max-mb", "0.001", "-q"]) == 0
    page = visit(file)
    show_maps(page)
    lead = page.locator("#maps .lead").inner_text()
    assert "only every 48th block and the mean and maximum over heads" in lead
    assert "Click" not in lead
    assert page.locator("#maps .heads option").all_text_contents() == ["max", "mean"]
    before = picture(page, 0, 1)
    page.locator("#maps .row .frame").first.click()
    assert np.array_equal(before, picture(page, 0, 1))
    page.locator("#maps .heads").select_option("mean")
    assert not np.array_equal(before, picture(page, 0, 1))
