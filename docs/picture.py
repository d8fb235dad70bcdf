"""Draws the README's picture: where source, plain fine-tuning and GTA look on the demo's test set.

python docs/picture.py PLAIN_RUN GTA_RUN docs/attention.png
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from gtacli import attention, load_model
from gtacli.data import load_dataset
from gtacli.data.images import decode

SIDE, GAP, HEAD = 144, 6, 22
CLASSES = (0, 2, 4, 7, 9, 11)


def main(plain: str, gta: str, out: str) -> None:
    models = {"source": "demo", "plain": plain, "GTA": gta}
    loaded = {name: load_model(spec) for name, spec in models.items()}
    test = load_dataset("demo")["test"]
    records = [[r for r in test if r.label == c][3] for c in CLASSES]
    columns = ["image", *models]
    width, height = len(columns) * (SIDE + GAP) + GAP, len(records) * (SIDE + GAP) + HEAD + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for x, title in enumerate(columns):
        draw.text((GAP + x * (SIDE + GAP), 5), title, fill="black", font_size=14)
    for y, record in enumerate(records):
        image = decode(Path(record.path))
        views = [image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)]
        maps = {}
        for name, model in loaded.items():
            with torch.no_grad():
                (tap,) = attention(model.model, model.preprocess(image)[None])
            maps[name] = tap.maps().amax(1)[:, None]  # the maximum over heads, as in the paper
        for heat in maps.values():
            heat = F.interpolate(heat, (SIDE, SIDE), mode="bicubic")[0, 0].clamp_min(0)
            views.append(overlay(views[0], heat / heat.max()))
        for x, view in enumerate(views):
            sheet.paste(view, (GAP + x * (SIDE + GAP), HEAD + y * (SIDE + GAP)))
    sheet.quantize(128, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)


def overlay(image: Image.Image, heat: torch.Tensor) -> Image.Image:
    """The image in grey, and in red where `heat` (h, w) in 0..1 is high."""
    grey = image.convert("L").convert("RGB").point(lambda v: 40 + 0.6 * v)
    red = Image.new("RGB", image.size, (235, 20, 20))
    return Image.composite(red, grey, to_pil_image(heat.pow(0.8) * 0.85))


if __name__ == "__main__":
    main(*sys.argv[1:])
