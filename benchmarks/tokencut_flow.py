"""Compare the official TokenCut, from image files to object masks, with `gta segment`.

    git clone https://github.com/YangtaoWANG95/TokenCut
    python benchmarks/tokencut_flow.py photos/ --official TokenCut/unsupervised_saliency_detection \
        --model vit_small_patch16_224.dino --count 50

official   get_saliency.py, image by image: decode, Lanczos to the nearest multiple of the patch
           size, forward with a hook on qkv, scipy's eigenvectors, component; with --refine its
           bilateral solver. The original functions run, with the minimal changes to make them run:
           the word "cuda", the URL of the weights, an unused import, an argument that scipy has
           renamed. Block and normalization are the model's. Measured with BLAS on one thread and
           on all; the faster one counts.
ours       gtacli.inference.segment.segmentation.segment with the same files and weights, in
           batches, at --image-size. Neither writes files.

Prints one JSON line: images per second, the median ratio of interleaved repeats, and the agreement
of the results (mean, minimum, fraction of images at 0.99 or more), step by step:

same_features   our cut on the official features
same_positions  our model with the official position embeddings, on the official view of the image
same_view       the same with timm's position embeddings, which are resized differently
flow, flow_box  the complete pipelines: ours stretches the image to a square
solver          our bilateral solver on the official mask, thresholded at 0.5
solver_object   the same, largest component; the official one is the second largest including the
                background, which is the background itself if the object is larger
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cut_agreement import iou
from interleaved import time_interleaved
from PIL import Image
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from gtacli import attention, load_model, normalized_cut
from gtacli.data.inputs import InputImage
from gtacli.discovery.build import make_backend
from gtacli.discovery.masks import box_around
from gtacli.discovery.refine import bilateral, largest_object
from gtacli.images.find import find_images
from gtacli.inference.objects import Finder
from gtacli.inference.segment.segmentation import MaskOptions, segment
from gtacli.models import LoadedModel
from gtacli.runtime.devices import choose_compute

TAU = 0.2
PATCH = 16


class Official:
    """The published functions of a checkout on one device, with the weights of `model`.

    Args:
        folder: `unsupervised_saliency_detection` of the checkout.
        model: a plain ViT with DINO's layout.
        layer: block whose keys are cut; later blocks are removed, as its hook is on the last one.
    """

    def __init__(self, folder: Path, model: LoadedModel, layer: int, device: torch.device) -> None:
        self.device, self.mean, self.std = device, model.mean, model.std
        sys.modules.setdefault("skimage", types.ModuleType("skimage"))  # imread, never called
        sys.modules.setdefault("skimage.io", types.SimpleNamespace(imread=None))
        sys.path.insert(0, str(folder))
        self.utils = importlib.import_module("utils")
        self.solver = importlib.import_module("bilateral_solver")
        cg = self.solver.cg
        self.solver.cg = lambda *a, tol, **how: cg(*a, rtol=tol, **how)
        source = (folder / "object_discovery.py").read_text()
        self.ncut = types.ModuleType("object_discovery")
        exec(source.replace("'cuda'", repr(str(device))), vars(self.ncut))
        self.net = self._network(importlib.import_module("dino"), model, layer)

    def _network(self, dino: Any, model: LoadedModel, layer: int) -> nn.Module:
        theirs, ours = dino.ViTFeat.__new__(dino.ViTFeat), model.model
        nn.Module.__init__(theirs)
        norm = partial(nn.LayerNorm, eps=ours.norm.eps)
        depth, heads = len(ours.blocks), ours.blocks[0].attn.num_heads
        theirs.model = dino.VisionTransformer(
            patch_size=PATCH, embed_dim=ours.embed_dim, depth=depth, num_heads=heads,
            qkv_bias=True, norm_layer=norm,
        )  # fmt: skip
        weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("head.")}
        theirs.model.load_state_dict(weights)
        theirs.model.blocks = theirs.model.blocks[: layer % depth + 1]
        theirs.feat_dim, theirs.vit_feat, theirs.patch_size = ours.embed_dim, "k", PATCH
        return theirs.eval().to(self.device)

    def view(self, path: Path) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Return the normalized view (1, 3, H, W), the image's (h, w), and the patch grid."""
        image = Image.open(path).convert("RGB")
        resized, w, h, gw, gh = self.utils.resize_pil(image, PATCH)
        pixels = F.normalize(F.to_dtype(F.pil_to_tensor(resized), scale=True), self.mean, self.std)
        return pixels[None].to(self.device), (h, w), (gh, gw)

    def mask(self, path: Path) -> np.ndarray:
        """Return the mask (h, w) of 0 and 1, without the bilateral solver."""
        view, size, grid = self.view(path)
        _, mask, _ = self.ncut.ncut(self.net(view)[0], list(grid), [PATCH] * 2, list(size), TAU)
        return mask

    def refine(self, path: Path, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the soft mask (h, w), and the object in it."""
        settings = {"sigma_spatial": 16, "sigma_luma": 16, "sigma_chroma": 8}
        return self.solver.bilateral_solver_output(str(path), mask, **settings)

    def find(self, path: Path, refine: bool) -> np.ndarray:
        """Return the object's mask (h, w) as bool."""
        mask = self.mask(path)
        return self.refine(path, mask)[1] if refine else mask > 0.5


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of the boxes of two masks."""
    drawn = []
    for mask in (one, other):
        box = box_around(mask) or (0, 0, 0, 0)
        drawn.append(np.zeros(mask.shape, bool))
        drawn[-1][box[1] : box[3], box[0] : box[2]] = True
    return iou(*drawn)


def steps(official: Official, spec: str, layer: int, images: list[Path]) -> dict[str, list[float]]:
    """Return the IoU of our later steps on the output of the official earlier steps."""
    agreed: dict[str, list[float]] = defaultdict(list)
    nets: dict[tuple[int, int], nn.Module] = {}
    for path in images:
        view, size, grid = official.view(path)
        mask = official.mask(path)
        if grid not in nets:
            nets[grid] = load_model(spec, image_size=tuple(PATCH * n for n in grid)).model
            nets[grid].to(view.device)
        variants = {"same_features": official.net(view).transpose(1, 2)}
        variants["same_view"] = keys(nets[grid], view, layer)
        with positions(nets[grid], official.net.model, view):
            variants["same_positions"] = keys(nets[grid], view, layer)
        for name, features in variants.items():
            ours = normalized_cut(features, grid, TAU).mask[:, None].float()
            # Enlarged as in the official code, so that equal patches give equal masks.
            enlarged = nn.functional.interpolate(ours, size, mode="nearest")[0, 0] > 0.5
            agreed[name].append(iou(enlarged.cpu().numpy(), mask > 0.5))
        with Image.open(path) as image:
            soft = bilateral(np.array(image.convert("RGB")), mask.astype(np.float64))
        their_soft, their_object = official.refine(path, mask)
        agreed["solver"].append(iou(soft > 0.5, their_soft > 0.5))
        agreed["solver_object"].append(iou(largest_object(soft), their_object))
    return agreed


def keys(net: nn.Module, view: Tensor, layer: int) -> Tensor:
    """Return the keys of a block as (1, N, C), heads concatenated."""
    with torch.no_grad():
        (tap,) = attention(net, view, (layer,), rows="all")
    return tap.q_k[1][:, :, tap.num_prefix_tokens :].transpose(1, 2).flatten(2)


@contextmanager
def positions(ours: nn.Module, theirs: nn.Module, view: Tensor) -> Iterator[None]:
    """Use the official position embeddings for this view in our model."""
    before = ours.pos_embed.data
    tokens = torch.zeros_like(before)  # only their shape matters
    ours.pos_embed.data = theirs.interpolate_pos_encoding(tokens, *view.shape[-2:]).detach()
    try:
        yield
    finally:
        ours.pos_embed.data = before


def summarize(values: list[float]) -> dict[str, float]:
    """Return mean, minimum and the fraction of at least 0.99."""
    return {
        "mean": round(statistics.mean(values), 4),
        "min": round(min(values), 4),
        "at_0.99": round(sum(v >= 0.99 for v in values) / len(values), 3),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--model", required=True)
    p.add_argument(
        "--official", type=Path, help="folder in a checkout [default: measure ours alone]"
    )
    p.add_argument("--layer", type=int, default=-1)
    p.add_argument(
        "--image-size", type=int, default=352, help="image size of ours; about as many patches"
    )
    p.add_argument("--refine", action="store_true", help="with the bilateral solver")
    p.add_argument("--count", type=int, default=50, help="number of images, evenly spaced")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--device", default="auto")
    args = p.parse_args()
    images = find_images(args.folder)
    if not images:
        p.error(f"no image in {args.folder}")
    images = images[:: max(1, len(images) // args.count)][: args.count]

    compute = choose_compute(args.device, "fp32")
    model = load_model(args.model, image_size=args.image_size)
    backend = make_backend("tokencut", {"layer": args.layer}, model)
    finder = Finder(model, backend, compute)
    named = [InputImage(str(path), Path(path.name)) for path in images]

    def ours(folder: Path | None = None) -> None:
        output = MaskOptions(folder, "bilateral" if args.refine else "none")
        for line in segment([finder], named, output):
            assert "error" not in line, line

    variants: dict[str, Callable[[], object]] = {"ours": ours}
    official = None
    if args.official:
        official = Official(args.official, load_model(args.model), args.layer, compute.device)

        blas = ThreadpoolController().select(user_api="blas")

        def theirs(threads: int | None) -> None:
            with blas.limit(limits=threads):
                for path in images:
                    official.find(path, args.refine)

        variants |= {"official_1": lambda: theirs(1), "official_all": lambda: theirs(None)}

    timings = time_interleaved(variants, args.repeats, compute)
    times, medians = timings.wall, timings.medians()
    result: dict[str, object] = {
        "benchmark": "tokencut_flow",
        "model": args.model,
        "layer": args.layer,
        "image_size": args.image_size,
        "refine": args.refine,
        "images": len(images),
        "device": str(compute.device),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "images_per_second": {
            name: round(len(images) / seconds, 2) for name, seconds in medians.items()
        },
    }
    if official is not None:
        best = min((name for name in medians if name != "ours"), key=medians.__getitem__)
        ratios = [a / b for a, b in zip(times[best], times["ours"], strict=True)]
        result["times_faster"] = round(statistics.median(ratios), 2)
        result["times_faster_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        result["agreement"] = agreement(official, args, images, ours)
    print(json.dumps(result))


def agreement(
    official: Official, args: argparse.Namespace, images: list[Path], ours: Callable[[Path], None]
) -> dict[str, dict[str, float]]:
    """Return the agreement of the steps and of the complete pipelines."""
    agreed = steps(official, args.model, args.layer, images)
    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))
        masks = []
        for path in images:
            with Image.open(Path(folder, path.name).with_suffix(".png")) as image:
                masks.append(np.asarray(image) > 127)
    theirs = [official.find(path, args.refine) for path in images]
    agreed["flow"] = [iou(a, b) for a, b in zip(masks, theirs, strict=True)]
    agreed["flow_box"] = [box_iou(a, b) for a, b in zip(masks, theirs, strict=True)]
    return {name: summarize(values) for name, values in agreed.items() if values}


if __name__ == "__main__":
    main()
