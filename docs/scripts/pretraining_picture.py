"""Draw the picture of the pre-training page: the first rows of a preview.

gta pretrain --recipe pretrain-demo --out runs/pretrain-demo
python docs/scripts/pretraining_picture.py \
    runs/pretrain-demo/previews/epoch-0040.png docs/pretraining.png
"""

import sys

from PIL import Image

from gtacli.rendering.sheet import GAP, LINE, SIDE

ROWS, WIDTH = 3, 620

with Image.open(sys.argv[1]) as sheet:
    rows = sheet.crop((0, 0, sheet.width, 2 * GAP + LINE + ROWS * (SIDE + GAP)))
size = (WIDTH, round(WIDTH * rows.height / rows.width))
small = rows.resize(size, Image.Resampling.LANCZOS)
small.quantize(128, Image.Quantize.MEDIANCUT).save(sys.argv[2], optimize=True)
