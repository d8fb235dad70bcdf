"""The weights of a run in timm alone, by the code that docs/faq.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune

FAQ = Path(__file__).resolve().parents[2] / "docs" / "faq.md"


class Silent:
    """An observer that ignores the progress of a run."""

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("options", [{}, {"pool": "mean", "image_size": (48, 48)}])
def test_timm_alone_computes_what_the_run_does(
    options: dict[str, Any],
    tiny_model: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "runs" / "gta"
    base = {"model": str(tiny_model), "data": str(tiny_data), "out": run, "epochs": 1}
    finetune(FinetuneConfig(**base, batch_size=4, workers=0, device="cpu", **options), Silent())
    Image.linear_gradient("L").resize((90, 64)).convert("RGB").save(tmp_path / "bird.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", FAQ.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "faq.md", "exec"), names)
    model = load_model(str(run))
    probabilities = model.model.eval()(names["image"]).softmax(-1)
    torch.testing.assert_close(names["probabilities"], probabilities)
    image = model.preprocess(Image.open("bird.jpg").convert("RGB"))[None]
    difference = (names["image"] - image).abs() * torch.tensor(model.std).view(3, 1, 1)
    assert difference.max() < 8 / 255  # a resized side may differ by a pixel
    assert tuple(names["classes"]) == model.classes
