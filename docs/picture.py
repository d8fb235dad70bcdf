"""Draws the README's picture: where source, plain fine-tuning and GTA look on the demo's test set.

gta demo --out runs/demo
python docs/picture.py runs/demo docs/attention.png
"""

import sys
from pathlib import Path

from PIL import Image

from gtacli.demo.picture import draw_attention
from gtacli.runtime.devices import choose_compute

WIDTH = 560


def main(demo: str, out: str) -> None:
    folder, file = Path(demo), Path(out)
    draw_attention(folder / "plain-0", folder / "gta-0", file, choose_compute("cpu", "fp32"))
    with Image.open(file) as sheet:
        size = (WIDTH, round(WIDTH * sheet.height / sheet.width))
        small = sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
