"""The facts about an exported model: its data, its metrics, where it looks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import PurePath

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from gtacli.images.preprocessing import make_eval_view
from gtacli.measures.statistics import wilson_interval
from gtacli.models.exporters.base import Facts, Metric
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import attention, has_cls
from gtacli.rendering.heatmap import overlay_map, resize_map, value_range
from gtacli.rendering.sheet import SheetRow, draw_sheet
from gtacli.runtime.paths import user_path
from gtacli.runtime.run_files import RECORD_FILE
from gtacli.trained.runs import SummaryFile, read_run


def read_facts(
    spec: str, model: LoadedModel, images: Sequence[Image.Image], license_name: str
) -> Facts:
    """Return what is known of a model; of local paths only the last part, as readers see it.

    Args:
        spec: of the model.
        images: in which its attention is drawn.
        license_name: of the weights; "" if that is not known.

    Raises GtaError for a damaged run folder.
    """
    picture = _draw(model, images) if has_cls(model.model) else None
    if not os.path.isfile(user_path(spec) / RECORD_FILE):
        return Facts(start=_last(spec), license=license_name, picture=picture)
    run = read_run(user_path(spec))
    return Facts(
        data=_last(run.config.data or ""),
        start=_last(run.config.model or ""),
        command=run.command,
        images=run.summary.n_train,
        metrics=tuple(_metrics(run.summary)),
        license=license_name,
        picture=picture,
    )


def _metrics(summary: SummaryFile) -> Iterator[Metric]:
    for name, value in (
        ("top-1 accuracy", summary.test_top1),
        ("top-5 accuracy", summary.test_top5),
    ):
        if value is not None:
            n = summary.n_test
            right = None if n is None else min(n, round(value * n))
            yield name, value, None if right is None or n is None else wilson_interval(right, n)[:2]
    for name, value in (
        ("mean average precision", summary.test_map),
        ("F1, mean of the classes", summary.test_f1_macro),
        ("F1, all labels", summary.test_f1_micro),
    ):
        if value is not None:
            yield name, value, None
    if summary.test_mean_class_top1 is not None:
        yield "mean of the classes' top-1 accuracies", summary.test_mean_class_top1, None


def _last(spec: str) -> str:
    """Return a spec without the folders of its path; an address stays."""
    if re.match(r"[\w+-]+://|hf-hub:|wds/", spec):
        return spec
    before, at, path = spec.rpartition("@")
    return f"{before}{at}{PurePath(path).name or path}"


@torch.no_grad()
def _draw(model: LoadedModel, images: Sequence[Image.Image]) -> bytes:
    """Return a PNG of images and the attention on them."""
    pictures, maps = [], []
    for image in images:
        pixels = F.pil_to_tensor(image)
        view = make_eval_view(pixels, model.image_size, model.crop_pct, model.interpolation)
        picture = F.to_pil_image(view)
        (tap,) = attention(model.model, model.preprocess(image)[None])
        attended = tap.maps().amax(1)[0].numpy()
        gray = resize_map(attended, model.image_size, value_range(attended))
        pictures.append(picture)
        maps.append(overlay_map(picture, gray, "red"))
    file = BytesIO()
    draw_sheet([SheetRow(pictures), SheetRow(maps)], [""] * len(images)).save(file, "PNG")
    return file.getvalue()
