"""Reports of pre-training runs in Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from tests.report.test_browser import show_maps

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]
SHOWN = "() => [...document.querySelectorAll('.sheets img')].map((i) => i.src)"


def write(out: Path, runs: list[Path]) -> Path:
    assert main(["report", *map(str, runs), "-o", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def report(pretrainings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page") / "report.html", pretrainings)


@pytest.fixture(scope="module")
def mixed(
    runs: list[Path], pretrainings: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write(tmp_path_factory.mktemp("page") / "report.html", [*runs[:4], *pretrainings[:4]])


def test_page_starts_with_the_newest_previews(visit: Visit, report: Path) -> None:
    page = visit(report)
    assert page.locator(".sheets figure").count() == 6
    newest = page.locator(".sheets figcaption").all_inner_texts()
    assert [text.split("after epoch ")[1] for text in newest] == ["3"] * 5 + ["2"]
    page.wait_for_function(
        "() => [...document.querySelectorAll('.sheets img')].every((i) => i.naturalWidth > 0)"
    )


def test_slider_selects_the_epoch(visit: Visit, report: Path) -> None:
    page = visit(report)
    newest = page.evaluate(SHOWN)
    page.locator("#previews input").fill("0")
    assert page.locator("#previews output").inner_text() == "1"
    first = page.evaluate(SHOWN)
    assert all(a != b for a, b in zip(newest, first, strict=True))
    page.locator("#previews input").fill("1")
    second = page.evaluate(SHOWN)
    page.locator("#previews input").fill("2")
    assert page.evaluate(SHOWN) == newest
    assert newest[5] == second[5]  # the stopped run


def test_click_enlarges_a_preview_and_a_second_click_shrinks_it(visit: Visit, report: Path) -> None:
    page = visit(report)
    image = page.locator(".sheets img").first
    before = image.bounding_box()["width"]
    image.click()
    assert image.bounding_box()["width"] > 2 * before
    image.click()
    assert image.bounding_box()["width"] == before


def test_every_command_has_its_table_curves_and_legend(visit: Visit, mixed: Path) -> None:
    page = visit(mixed)
    assert page.locator("#results h2").all_inner_texts() == ["Fine-tuning", "Pre-training"]
    assert page.locator("#curves h3").all_inner_texts() == ["Fine-tuning", "Pre-training"]
    legends = page.locator("#curves .legend")
    assert [legends.nth(i).locator("button").all_inner_texts() for i in (0, 1)] == [
        ["none", "gta"],
        ["no guide", "dino"],
    ]
    own = page.locator("#curves .plots").nth(1)
    titles = own.locator("figcaption").all_inner_texts()
    assert {"error inside the object", "k-NN top-1 %", "tau"} <= {*titles}
    assert "cross-entropy" not in titles
    drawn = "() => document.querySelectorAll('.plots')[1].querySelector('canvas').toDataURL()"
    other = "() => document.querySelectorAll('.plots')[0].querySelector('canvas').toDataURL()"
    before, rest = page.evaluate(drawn), page.evaluate(other)
    legends.nth(1).locator("button").first.click()
    page.mouse.move(0, 0)
    page.wait_for_function(f"before => ({drawn})() !== before", arg=before)
    assert page.evaluate(other) == rest


COLORED = """() => {
  const figures = [...document.querySelectorAll('#curves .plots figure')];
  const canvas = figures.find((f) => f.textContent.startsWith('k-NN')).querySelector('canvas');
  const { width, height } = canvas;
  const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
  const columns = new Set();
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = data.subarray(i, i + 3);
    if (Math.max(r, g, b) - Math.min(r, g, b) > 60) columns.add((i / 4) % width);
  }
  return columns.size / width;
}"""
"""The fraction of the k-NN chart's width that has color: axes and text are gray."""


def test_sparse_metric_is_drawn_as_a_line(
    visit: Visit, pretrainings: list[Path], tmp_path: Path
) -> None:
    run = shutil.copytree(pretrainings[2], tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    for row, top1 in zip(rows, (0.2, None, 0.4), strict=True):
        row["knn_top1"] = top1
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "r.html"
    assert main(["report", str(run), "-o", str(out), "--no-images", "-q"]) == 0
    page = visit(out)
    assert page.evaluate(COLORED) > 0.6


def test_maps_of_both_commands_are_side_by_side(visit: Visit, mixed: Path) -> None:
    page = visit(mixed)
    show_maps(page)
    tiles = page.locator("#maps .row").first.locator(".tiles figure:visible")
    assert (
        tiles.count() == 1 + 1 + 4
    )  # the image; of nine models the source and one run per setting
    assert "of 24 correct" in page.locator(".matrix figcaption").inner_text()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_page_fits_the_width_of_a_phone(visit: Visit, mixed: Path, scheme: str) -> None:
    page = visit(mixed, width=360, scheme=scheme)
    show_maps(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_report_of_fine_tuning_has_no_previews(
    visit: Visit, runs: list[Path], tmp_path: Path
) -> None:
    page = visit(write(tmp_path / "r.html", runs[:1]))
    assert not page.locator("#previews").is_visible()
    assert page.locator("#curves h3").count() == 0
