"""Draw the README's picture: attention of source, plain and GTA fine-tuning on demo images.

gta demo --out runs/demo
python docs/scripts/attention_picture.py runs/demo docs/attention.png
"""

import sys
from pathlib import Path

from PIL import Image

from gtacli.demo.picture import draw_attention
from gtacli.runtime.devices import choose_compute

WIDTH = 560


def main(demo: str, out: str) -> None:
    """Draw the picture of a demo folder and shrink it."""
    folder, file = Path(demo), Path(out)
    draw_attention(folder / "plain-0", folder / "gta-0", file, choose_compute("cpu", "fp32"))
    with Image.open(file) as sheet:
        size = (WIDTH, round(WIDTH * sheet.height / sheet.width))
        small = sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
