"""Tests of the report's section on calibrated runs."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gtacli.cli import main

BEFORE = [[0.4, 0.466, 0.45, 0.25, 4], [0.933, 1.0, 0.95, 0.5, 6]]
AFTER = [[0.2, 0.266, 0.25, 0.25, 4], [0.466, 0.533, 0.5, 0.5, 6]]
CALIBRATION = {
    "temperature": 2.5,
    "threshold": None,
    "accuracy": 0.95,
    "images": 30,
    "reliability": {"images": "test", "before": BEFORE, "after": AFTER},
}


def page(tmp_path: Path, *runs: Path) -> str:
    out = tmp_path / "r.html"
    assert main(["report", *map(str, runs), "-o", str(out), "--no-images", "--quiet"]) == 0
    return out.read_text(encoding="utf-8")


def calibrated(run: Path, tmp_path: Path, content: Any) -> Path:
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    (copy / "calibration.json").write_text(json.dumps(content))
    return copy


def test_calibrated_runs_have_a_table_and_diagrams(runs: list[Path], tmp_path: Path) -> None:
    run = calibrated(runs[0], tmp_path, CALIBRATION)
    html = page(tmp_path, run, runs[2])
    section = html[html.index("<h2>Calibration</h2>") :]
    cells = re.findall(r"<td>(.*?)</td>", section[: section.index("</tbody>")])
    # (4 * 0.2 + 6 * 0.45) / 10
    assert [*map(unescape, cells)] == ["2.5", "35.0", "0.0", "10 test images"]
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', section)
    assert found is not None
    svg = base64.b64decode(found[1])
    assert b"<script" not in svg
    root = ElementTree.fromstring(svg)
    circles = root.findall(".//{*}circle")
    places = [(float(c.get("cx", "")) / 150, 1 - float(c.get("cy", "")) / 150) for c in circles]
    expected = [(b[2], b[3]) for b in [*BEFORE, *AFTER]]
    assert [x for pair in places for x in pair] == pytest.approx(
        [x for pair in expected for x in pair], abs=1e-3
    )


@pytest.mark.parametrize("content", [{**CALIBRATION, "reliability": None}, {"temperature": -1}])
def test_older_and_damaged_calibrations_leave_no_section(
    runs: list[Path], tmp_path: Path, content: Any
) -> None:
    assert "<h2>Calibration</h2>" not in page(tmp_path, calibrated(runs[0], tmp_path, content))
