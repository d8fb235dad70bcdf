"""Compare `--layer auto --tau auto` of TokenCut with every block and tau on images with masks.

    python benchmarks/auto_layer.py --model SPEC --images DIR --ground-truth DIR --image-size 480

Scores the mask of the patches, enlarged to the image, as `gta segment --ground-truth` does, for
every block and tau. Prints the choice of `auto`, which is made on drawn scenes, the best choice
given the true masks, and the published setting (-1, 0.2).

Prints one JSON line. `spearman` compares the scenes' mean IoU with the photographs': over all pairs
of block and tau, and over blocks at each tau.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli import load_model
from gtacli.discovery.calibration import (
    BATCH,
    SCENES,
    TAUS,
    MaskedImages,
    Setting,
    calibrate,
    draw_scenes,
    total_iou,
)
from gtacli.discovery.tokencut import tokencut_method
from gtacli.images.decode import decode
from gtacli.models.loading import LoadedModel

EPS = 1e-5


def photographs(model: LoadedModel, files: Sequence[Path], truth: Path) -> Iterator[MaskedImages]:
    """Yield batches stretched to the model's size, and true masks at the images' own size."""
    as_input = model.view(torch.device("cpu"))
    how = InterpolationMode(model.interpolation)
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        pixels = [F.pil_to_tensor(decode(file)) for file in some]
        views = [F.resize(p, list(model.image_size), how, antialias=True) for p in pixels]
        masks = [
            np.asarray(Image.open(truth / f"{file.stem}.png").convert("L")) > 127 for file in some
        ]
        yield as_input(torch.stack(views)), masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--ground-truth", type=Path, required=True, help="folder of masks STEM.png")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--side", choices=["seed", "center"], default="center")
    parser.add_argument("--vote", action="store_true", help="also choose among pairs of blocks")
    parser.add_argument("--taus", type=float, nargs="+", default=TAUS)
    parser.add_argument("--limit", type=int, help="number of images, drawn at random with seed 0")
    parser.add_argument(
        "--scenes", type=int, default=SCENES, help="number of scenes for the rank correlations"
    )
    args = parser.parse_args()

    model = load_model(args.model, image_size=args.image_size)
    network = model.model.requires_grad_(False)
    layers, taus = range(len(network.blocks)), args.taus  # type: ignore[arg-type]
    start = time.perf_counter()
    method = tokencut_method(EPS, args.side)
    chosen = calibrate(model, method, layers, TAUS, args.vote)
    seconds = time.perf_counter() - start

    files = sorted(
        f for f in args.images.iterdir() if (args.ground_truth / f"{f.stem}.png").is_file()
    )
    if args.limit and args.limit < len(files):
        files = random.Random(0).sample(files, args.limit)
    pairs: list[Setting] = [((layer,), tau) for layer in layers for tau in taus]
    auto, published = (chosen.blocks, chosen.tau), ((len(layers) - 1,), 0.2)
    wanted = list(dict.fromkeys([*pairs, auto, published]))
    sums = total_iou(model, wanted, photographs(model, files, args.ground_truth), method)
    iou = {pair: total / len(files) for pair, total in sums.items()}
    scene = total_iou(model, pairs, draw_scenes(model, range(args.scenes)), method)

    def rank(some: Sequence[Setting]) -> float:
        return round(float(spearmanr([scene[p] for p in some], [iou[p] for p in some])[0]), 3)

    best = max(pairs, key=iou.__getitem__)
    result = {
        "model": args.model,
        "image_size": list(model.image_size),
        "images": len(files),
        "auto": {
            "layers": list(chosen.blocks),
            "tau": chosen.tau,
            "mean_iou": iou[auto],
            "scenes": chosen.iou,
        },
        "best": {"layer": best[0][0], "tau": best[1], "mean_iou": iou[best]},
        "published": {"layer": len(layers) - 1, "tau": 0.2, "mean_iou": iou[published]},
        "spearman": rank(pairs),
        "spearman_over_layers": {t: rank([((layer,), t) for layer in layers]) for t in taus},
        "seconds_to_choose": round(seconds, 1),
        "taus": list(taus),
        "mean_iou": [[round(iou[(layer,), tau], 4) for tau in taus] for layer in layers],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
