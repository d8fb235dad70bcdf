"""Tiny networks and drawn images, made in milliseconds without a download.

The same numbers in every process: they are drawn by generators of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from gtacli.images.preprocessing import Preprocess
from gtacli.models.loading import LoadedModel
from gtacli.models.weights import LoadReport

ARCHITECTURE = "vit_tiny_patch16_224"
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
CLASSES = 4


def tiny_vit(seed: int = 0, **changes: Any) -> nn.Module:
    """Return a ViT of timm in eval mode: 3 blocks of 3 heads, 16 patches of 8 x 8, 4 classes.

    Args:
        seed: its weights are drawn from it.
        changes: arguments of `timm.create_model` (embed_dim=12, class_token=False, reg_tokens=4).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(ARCHITECTURE, **{**TINY, "num_classes": CLASSES, **changes})
        # Larger weights than timm's first ones, whose attention is the same everywhere.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3.0)
    return model.eval()


def drawn_images(count: int = 4, size: tuple[int, int] = (32, 32), seed: int = 0) -> Tensor:
    """Return normalized images (B, 3, h, w): a bright square on noise, in another place on each."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, *size, generator=generator)
    for i, image in enumerate(images):
        top, left = size[0] // 8 * (1 + i % 3), size[1] // 8 * (1 + i % 4)
        image[:, top : top + size[0] // 2, left : left + size[1] // 2] += 2.0
    return images


def drawn_labels(count: int = 4) -> Tensor:
    """Return labels (B,), of classes in turn."""
    return torch.arange(count) % CLASSES


def loaded(model: nn.Module, size: tuple[int, int] = (32, 32)) -> LoadedModel:
    """Return a network as if `gtacli.load_model` had loaded it."""
    network = cast(Any, model)
    config = resolve_model_data_config(model)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return LoadedModel(
        model=model,
        preprocess=Preprocess(size, mean, std),
        mean=mean,
        std=std,
        grid=tuple(network.patch_embed.grid_size),
        num_prefix_tokens=int(network.num_prefix_tokens),
        report=LoadReport(),
        architecture=ARCHITECTURE,
        spec="a tiny ViT",
        image_size=size,
        interpolation="bicubic",
        crop_pct=1.0,
    )


def devices() -> list[torch.device]:
    """Return the devices that this machine has: the CPU, and one GPU if there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Run what is inside in bfloat16 autocast, as training does with `precision=bf16`."""
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield


OTHER_NETWORKS: dict[str, dict[str, Any]] = {
    "a ViT with register tokens": {"reg_tokens": 4},
    "a ViT without a CLS token": {"class_token": False, "global_pool": "avg"},
    "a ViT for images that are not square": {"img_size": (32, 48)},
    "a ViT with one block": {"depth": 1},
}
"""Networks that a part supports, or refuses in words."""
