"""Draw the README's picture of a report: its table and the first rows of its maps.

python docs/scripts/report_picture.py REPORT.html docs/report.png
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROWS = 2

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.goto(Path(sys.argv[1]).resolve().as_uri())
    page.evaluate("document.getElementById('curves').hidden = true")
    row = page.locator("#maps .row").nth(ROWS)
    row.locator("canvas").first.wait_for()
    height = int(row.bounding_box()["y"])
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": 1280, "height": height})
    browser.close()
picture = Image.open(BytesIO(shot)).convert("RGB")
palette = Image.Quantize.FASTOCTREE
picture.quantize(256, palette, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
