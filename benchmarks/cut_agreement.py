"""Compare the objects of our normalized cuts with those of the published dense solution.

    python benchmarks/cut_agreement.py photos/ --model vit_small_patch16_224.dino --sizes 224 480
    python benchmarks/cut_agreement.py photos/ --model ARCH@FILE --sizes 960 --count 60 --lines F

For each image, size and block the keys are extracted as in `gta segment` and cut twice:

ours       gtacli.normalized_cut(solver="auto")
published  scipy.linalg.eigh(D - A, D, subset_by_index=[1, 2]) in float64, cut at the mean, seed at
           the largest entry, 4-connected component; implemented here independently of the package

Both use the same binary graph, that of ours. `edges` counts the edges that differ if the float32
products are summed in another order. `--lines` stores one JSON line per image; an interrupted run
continues after them.

Prints one JSON line per size and block: IoU of the masks (mean, minimum, number below 0.99), the
same if the published code also takes the first of tied seeds (`iou_first`), and the reasons for
masks below 0.99:

tie        the vectors agree, several entries are within 1e-6 of the largest (patches with the same
           edges), and rounding selects the seed among them; ours takes the first
mean       the vectors agree, and entries within 1e-6 of the mean fall on different sides
gap        the second and third eigenvalue are within 1e-6: any mixture of the vectors is valid
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli import attention, load_model, normalized_cut
from gtacli.discovery.affinity import Affinity
from gtacli.images.decode import decode
from gtacli.images.find import find_images
from gtacli.models import LoadedModel

EPS = 1e-5
NEAR = 1e-6  # tolerance relative to the largest entry, and of eigenvalues


def keys(model: LoadedModel, image: Path, layers: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield the keys of each block as (1, N, C): heads concatenated, without prefix tokens."""
    pixels = F.pil_to_tensor(decode(image))
    mode = InterpolationMode(model.interpolation)
    view = F.resize(pixels, list(model.image_size), mode, antialias=True)
    with torch.no_grad():
        batch = model.view(torch.device("cpu"))(view[None])
        taps = {tap.layer: tap for tap in attention(model.model, batch, layers, rows="all")}
        for layer in layers:
            tap = taps[layer % len(model.model.blocks)]
            yield tap.q_k[1][:, :, tap.num_prefix_tokens :].transpose(1, 2).flatten(2)


def compare(features: Tensor, grid: tuple[int, int], tau: float) -> dict[str, float | str]:
    """Cut a graph both ways and describe the differences."""
    cut = normalized_cut(features, grid, tau, EPS)
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    edges = Affinity.of(unit, tau, EPS).dense()[0].numpy() > 0.5
    plain = (unit[0] @ unit[0].T).numpy() > tau

    a = np.where(edges, 1.0, EPS)
    degree = a.sum(-1)
    d = np.diag(degree)
    values, vectors = scipy.linalg.eigh(d - a, d, subset_by_index=[1, 2])
    y = vectors[:, 0]
    size = np.abs(y)
    tied = np.flatnonzero(size > size.max() * (1 - NEAR))
    seed = int(size.argmax())
    ours, own = cut.eigenvector[0].double().numpy(), cut.mask[0].numpy()
    along = float(ours @ (degree * y) / np.sqrt((ours @ (degree * ours)) * (y @ (degree * y))))
    results = {
        "iou": iou(own, published(y, seed, grid)),
        "iou_first": iou(own, published(y, int(tied[0]), grid)),
        "gap": float(values[1] - values[0]),
        "off": 1 - abs(along),
        "edges": int((edges != plain).sum()),
        "tied": len(tied),
        "at_mean": int((np.abs(y - y.mean()) < NEAR * size.max()).sum()),
        "no_cut": int(cut.seed[0]) < 0,
        "other_seed": int(cut.seed[0]) != seed,
    }
    return results | {"why": explain(results)}


def published(y: np.ndarray, seed: int, grid: tuple[int, int]) -> np.ndarray:
    """Return the connected component of the seed on its side of the mean."""
    side = y > y.mean()
    labels, _ = ndimage.label((side == side[seed]).reshape(grid))
    return labels == labels.flat[seed]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def explain(results: dict[str, float]) -> str:
    """Return the reason for a low IoU; "" if the masks agree."""
    if results["iou"] >= 0.99:
        return ""
    if results["no_cut"]:
        return "no cut"
    if results["gap"] < NEAR:
        return "gap"
    if results["off"] < NEAR and results["other_seed"] and results["tied"] > 1:
        return "tie"
    if results["off"] < NEAR and results["at_mean"]:
        return "mean"
    return "?"


def summarize(results: list[dict[str, float]]) -> dict[str, object]:
    """Aggregate the comparisons of all images."""
    every = [one["iou"] for one in results]
    first = [one["iou_first"] for one in results]
    poor = [one for one in results if one["iou"] < 0.99]
    reasons = [one["why"] for one in poor]
    return {
        "images": len(results),
        "iou_mean": round(statistics.mean(every), 6),
        "iou_min": round(min(every), 6),
        "iou_first_mean": round(statistics.mean(first), 6),
        "iou_first_min": round(min(first), 6),
        "iou_first_below_0.99": sum(x < 0.99 for x in first),
        "below_0.99": len(poor),
        "why": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "gap_min": min(one["gap"] for one in results),
        "off_max": max((one["off"] for one in results if one["gap"] >= NEAR), default=0.0),
        "edges_differ": sum(one["edges"] for one in results),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--model", required=True)
    p.add_argument("--sizes", type=int, nargs="+", default=[224, 480], help="pixels per side")
    p.add_argument("--layers", type=int, nargs="+", default=[-1])
    p.add_argument("--tau", type=float, default=0.2)
    p.add_argument("--count", type=int, help="number of images, evenly spaced [default: all]")
    p.add_argument("--lines", type=Path, help="file for one JSON line per image")
    args = p.parse_args()
    images = find_images(args.folder)
    if not images:
        p.error(f"no image in {args.folder}")
    if args.count:
        images = images[:: max(1, len(images) // args.count)][: args.count]
    known = args.lines.read_text().splitlines() if args.lines and args.lines.exists() else []
    done = {(x["size"], x["layer"], x["image"]): x for x in map(json.loads, known)}
    for size in args.sizes:
        model = load_model(args.model, image_size=size)
        for image in images:
            name = str(image.relative_to(args.folder))
            left = tuple(x for x in args.layers if (size, x, name) not in done)
            for layer, features in zip(left, keys(model, image, left) if left else (), strict=True):
                key = {"size": size, "layer": layer, "image": name}
                one = key | compare(features, model.grid, args.tau)
                done[(size, layer, name)] = one
                if args.lines:
                    with args.lines.open("a") as file:
                        file.write(json.dumps(one) + "\n")
        for layer in args.layers:
            results = [done[(size, layer, str(x.relative_to(args.folder)))] for x in images]
            key = {"benchmark": "cut_agreement", "model": args.model, "size": size}
            key |= {"patches": model.grid[0] * model.grid[1], "layer": layer, "tau": args.tau}
            print(json.dumps(key | summarize(results)), flush=True)


if __name__ == "__main__":
    main()
