"""Compare the sides of TokenCut's cuts on images with masks: the seed's, the center's, the better.

    python benchmarks/object_side.py --model SPEC --images DIR --ground-truth DIR --image-size 224

Scores masks at the images' own size, as `gta segment --ground-truth` does, by rule and refinement:
`seed` is the published rule, `center` that of `gtacli.discovery.center`, and `oracle` takes of all
connected parts of both sides the one with the best IoU with the truth.

Prints one JSON line. `auc`: how well the confidence tells masks of IoU above 0.5 from those below
0.25 on the images, and drawn scenes with a creature from the same scenery without one.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auto_layer import photographs
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from gtacli import load_model
from gtacli.discovery.bipartition import bipartition
from gtacli.discovery.calibration import SCENES
from gtacli.discovery.center import center_confidence
from gtacli.discovery.masks import mask_on
from gtacli.discovery.ncut import normalized_cut
from gtacli.discovery.refine import bilateral, guided, largest_object
from gtacli.discovery.tokencut import TokenCut
from gtacli.images.decode import decode
from gtacli.measures.segmentation import iou
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import attention
from gtacli.scenes.trials import draw_ground, draw_trial

Mask = NDArray[np.bool_]


def parts(y_N: torch.Tensor, grid: tuple[int, int]) -> Iterator[Mask]:
    """Yield the connected parts of both sides of a cut."""
    side = (y_N > y_N.mean()).view(grid).numpy()
    for one in (side, ~side):
        labels, count = ndimage.label(one)
        yield from (labels == k for k in range(1, count + 1))


def refined(rgb: NDArray[np.uint8], mask: Mask, how: str) -> Mask:
    full = mask_on(rgb.shape[:2], mask)
    if how == "none" or not full.any():
        return full
    target = full.astype(np.float64)
    if how == "bilateral":
        soft = bilateral(rgb, target)
    else:
        patch = max(-(-h // gh) for h, gh in zip(rgb.shape[:2], mask.shape, strict=True))
        soft = guided(rgb, target, 2 * patch)
    best = largest_object(soft)
    return best if best.any() else full


def auc(high: list[float], low: list[float]) -> float | None:
    """Return the probability that a value of `high` is above one of `low`."""
    if not high or not low:
        return None
    ranks = rankdata([*high, *low])[: len(high)].sum()
    return float((ranks - len(high) * (len(high) + 1) / 2) / len(high) / len(low))


class Cutter:
    def __init__(self, model: LoadedModel, layer: int, tau: float) -> None:
        self.model, self.layer, self.tau = model, layer, tau

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        (tap,) = attention(self.model.model, images, (self.layer,), rows="all")
        return normalized_cut(tap.patch_keys(), tap.grid, self.tau).eigenvector, tap.grid


def scene_confidences(cutter: Cutter, draw: Any, count: int) -> list[float]:
    as_input = cutter.model.view(torch.device("cpu"))
    side = max(cutter.model.image_size)
    found = []
    for k in range(count):
        pixels = torch.from_numpy(np.array(draw(k, side))).permute(2, 0, 1)[None]
        cut = bipartition(*cutter(as_input(pixels)), "center")
        found.append(center_confidence(cut.mask[0].numpy()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--ground-truth", type=Path, required=True, help="folder of masks STEM.png")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--refine", nargs="+", default=["none", "guided", "bilateral"])
    parser.add_argument("--limit", type=int, help="number of images, drawn at random with seed 0")
    parser.add_argument("--scenes", type=int, default=4 * SCENES)
    args = parser.parse_args()

    model = load_model(args.model, image_size=args.image_size)
    model.model.eval().requires_grad_(False)
    options = TokenCut.resolve(TokenCut.Options(vote=()), model)
    cutter = Cutter(model, options.layer, options.tau)
    files = sorted(
        f for f in args.images.iterdir() if (args.ground_truth / f"{f.stem}.png").is_file()
    )
    if args.limit and args.limit < len(files):
        files = random.Random(0).sample(files, args.limit)
    sums: dict[tuple[str, str], float] = {}
    seconds = dict.fromkeys(args.refine, 0.0)
    good: list[float] = []
    bad: list[float] = []
    named = iter(files)
    for images, truths in photographs(model, files, args.ground_truth):
        y, grid = cutter(images)
        masks = {s: bipartition(y, grid, s).mask.numpy() for s in ("seed", "center")}
        for i, truth in enumerate(truths):
            rgb = np.array(decode(next(named)))
            size = truth.shape[:2]
            score = iou(mask_on(size, masks["center"][i]), truth)
            sure = center_confidence(masks["center"][i])
            (good if score > 0.5 else bad if score < 0.25 else []).append(sure)
            every = list(parts(y[i], grid)) if y[i].any() else [masks["seed"][i]]
            best = max(every, key=lambda m: iou(mask_on(size, m), truth))
            for rule, mask in (
                ("seed", masks["seed"][i]),
                ("center", masks["center"][i]),
                ("oracle", best),
            ):
                for how in args.refine:
                    start = time.perf_counter()
                    value = iou(refined(rgb, mask, how), truth)
                    seconds[how] += (time.perf_counter() - start) / 3
                    sums[rule, how] = sums.get((rule, how), 0.0) + value
    with_creature = scene_confidences(cutter, lambda k, s: draw_trial(k, s)[0], args.scenes)
    without = scene_confidences(cutter, draw_ground, args.scenes)
    result = {
        "model": args.model,
        "image_size": list(model.image_size),
        "images": len(files),
        "layer": options.layer,
        "tau": options.tau,
        "mean_iou": {
            rule: {how: round(sums[rule, how] / len(files), 4) for how in args.refine}
            for rule in ("seed", "center", "oracle")
        },
        "seconds_per_image": {how: round(s / len(files), 4) for how, s in seconds.items()},
        "auc": {"images": auc(good, bad), "scenes": auc(with_creature, without)},
        "confidence_of_scenes": {
            "with_creature_10_50_90": np.percentile(with_creature, [10, 50, 90]).round(3).tolist(),
            "without_10_50_90": np.percentile(without, [10, 50, 90]).round(3).tolist(),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
