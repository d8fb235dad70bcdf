"""Tests of `track_attention`: attention metrics by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gtacli import attention, load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.images.preprocessing import make_eval_view

Make = Callable[..., FinetuneConfig]


class Silent:
    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@pytest.fixture
def masked(tiny_data: Path) -> str:
    """Write tiny_data as a table with a mask for every image but the test images of one class."""
    lines = ["path,label,split,mask"]
    for number, image in enumerate(sorted(tiny_data.glob("t*/*/*.png"))):
        split, label = image.parts[-3:-1]
        pixels = np.zeros((40, 44), np.uint8)
        pixels[number % 9 : 20 + number % 7, 5 : 25 + number % 11] = 255
        mask = tiny_data / "masks" / split / label / image.name
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(mask)
        of = "" if (split, label) == ("test", "red") else mask.relative_to(tiny_data)
        lines.append(f"{image.relative_to(tiny_data)},{label},{split},{of}")
    table = tiny_data / "table.csv"
    table.write_text("\n".join(lines))
    return str(table)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def by_hand(run: Path, source: Path, data: Path) -> dict[str, Any]:
    """Compute the metrics of the saved weights image by image, with masks resized as images."""
    target, frozen = load_model(str(run)), load_model(str(source))
    keys = json.loads((run / "split.json").read_text())["val"]
    sums: dict[str, Any] = {"inside": 0.0, "entropy": 0.0, "kl": 0.0}
    for key in keys:
        image = target.preprocess(Image.open(data / key))[None]
        mask = torch.from_numpy(np.array(Image.open(data / "masks" / key))).expand(3, -1, -1)
        seen = (
            make_eval_view(mask, target.image_size, target.crop_pct, "bilinear")[0].double() / 255
        )
        weights = seen.unflatten(0, (4, 8)).unflatten(-1, (4, 8)).mean((1, 3)).flatten()
        with torch.no_grad():
            pairs = zip(
                attention(target.model, image, "all"),
                attention(frozen.model, image, "all"),
                strict=True,
            )
            t, s = (torch.cat([tap.logits[0, :, 0][None] for tap in taps]).double()
                    for taps in zip(*pairs, strict=True))  # fmt: skip
        a = t.softmax(-1)
        sums["entropy"] += -(a * a.log()).sum(-1).mean(1)
        on, of = t[..., 1:].softmax(-1), s[..., 1:].softmax(-1)
        sums["inside"] += (on @ weights).mean(1)
        sums["kl"] += (of * (of / on).log()).sum(-1).mean(1)
    return {k: (v / len(keys)).tolist() for k, v in sums.items()}


def test_every_epoch_logs_attention_metrics(
    config: Make, recorder: Any, masked: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    summary = finetune(config(data=masked, track_attention=True, lr=1e-2), recorder)
    seen = [row["attention"] for row in rows(tmp_path / "run")]
    assert len(seen) == 3
    for figures in seen:
        assert figures["n_images"] == figures["n_inside"] == 3
        assert all(len(figures[name]) == 3 for name in ("inside", "entropy", "kl"))
    assert seen[0]["kl"] != seen[2]["kl"]
    kept = seen[summary["best_epoch"]]
    expected = by_hand(tmp_path / "run", tiny_model, tiny_data)
    assert kept["entropy"] == pytest.approx(expected["entropy"], rel=1e-5)
    assert kept["kl"] == pytest.approx(expected["kl"], rel=1e-3, abs=1e-7)
    # Its mask went through the view as a picture, rounded to whole pixels.
    assert kept["inside"] == pytest.approx(expected["inside"], abs=0.01)
    assert summary["attention_inside"] == kept["inside"][-1]
    assert summary["attention_area"] == kept["area"]
    assert 0 < summary["test_attention_inside"] < 1


def test_tracking_does_not_change_training(
    config: Make, recorder: Any, masked: str, tmp_path: Path
) -> None:
    finetune(config(data=masked, out=tmp_path / "without"), recorder)
    finetune(config(data=masked, out=tmp_path / "with", track_attention=True), recorder)
    for plain, tracked in zip(rows(tmp_path / "without"), rows(tmp_path / "with"), strict=True):
        assert tracked.pop("attention") is not None
        for row in (plain, tracked):
            del row["images_per_second"]
        assert plain == tracked


def test_without_masks(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(track_attention=True, epochs=1), recorder)
    (row,) = rows(tmp_path / "run")
    assert row["attention"]["inside"] is row["attention"]["area"] is None
    assert row["attention"]["n_inside"] == 0
    assert len(row["attention"]["kl"]) == 3
    for key in ("attention_inside", "attention_area", "test_attention_inside"):
        assert summary[key] is None


def test_without_a_source(config: Make, recorder: Any, masked: str, tmp_path: Path) -> None:
    changes = {"drift": False, "regularizer": "none", "epochs": 1}
    finetune(config(data=masked, track_attention=True, **changes), recorder)
    (row,) = rows(tmp_path / "run")
    assert row["attention"]["kl"] is None
    assert len(row["attention"]["inside"]) == 3


def test_off_by_default(config: Make, recorder: Any, masked: str, tmp_path: Path) -> None:
    summary = finetune(config(data=masked, epochs=1), recorder)
    assert "attention" not in rows(tmp_path / "run")[0]
    assert not any("inside" in key for key in summary)


def test_no_held_out_images(
    config: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finetune(config(track_attention=True, epochs=1, shots=2), recorder)
    assert "`track_attention` has no effect: no class has 3 training images" in caplog.text
    assert rows(tmp_path / "run")[0]["attention"] is None


def test_training_images_are_tracked_where_none_are_held_out(
    config: Make, recorder: Any, masked: str, tmp_path: Path
) -> None:
    finetune(config(data=masked, track_attention=True, epochs=1, hold_out="none"), recorder)
    (row,) = rows(tmp_path / "run")
    assert row["val_top1"] is None
    assert row["attention"]["n_images"] == 3
    assert len(row["attention"]["inside"]) == 3


def test_unreadable_mask_is_logged_and_skipped(
    config: Make, recorder: Any, masked: str, tiny_data: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for image in sorted((tiny_data / "masks" / "train" / "red").glob("*.png")):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(image)
    finetune(config(data=masked, track_attention=True), recorder)
    assert [row["attention"]["n_inside"] for row in rows(tmp_path / "run")] == [2, 2, 2]
    said = [r.getMessage() for r in caplog.records if "without a mask" in r.getMessage()]
    assert len(said) == 1
    assert "9 x 9 pixels, its image is 44 x 40" in said[0]


def test_resume(
    config: Make, masked: str, interrupted: Callable[..., Any], recorder: Any, tmp_path: Path
) -> None:
    whole = finetune(config(data=masked, track_attention=True, out=tmp_path / "whole"), recorder)
    again = interrupted(config(data=masked, track_attention=True, out=tmp_path / "cut"))
    assert again["attention_inside"] == whole["attention_inside"]
    seen = [[r["attention"] for r in rows(tmp_path / n)] for n in ("whole", "cut")]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("size", [2, 5])
def test_metrics_do_not_depend_on_process_count(
    config: Make, masked: str, together: Callable[..., list[Any]], recorder: Any, size: int,
    tiny_data: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """Two of 5 processes have no held-out image; one has an unreadable mask."""
    (tiny_data / "masks" / "test" / "blue" / "1.png").write_bytes(b"no mask")
    changes = {"data": masked, "track_attention": True, "batch_size": 8, "epochs": 2,
               "optimizer": "sgd", "lr": 1e-2}  # fmt: skip
    one = finetune(config(out=tmp_path / "one", **changes), recorder)
    several = together(
        lambda rank: finetune(config(out=tmp_path / "several", **changes), Silent()), size
    )
    for summary in several:
        for key in ("attention_inside", "attention_area", "test_attention_inside"):
            assert summary[key] == pytest.approx(one[key], rel=1e-5)
    for mine, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "several"), strict=True):
        ours, others = mine["attention"], theirs["attention"]
        assert ours.keys() == others.keys()
        for name, value in ours.items():
            assert others[name] == pytest.approx(value, rel=1e-4, abs=1e-7)


def test_refit_is_tracked(config: Make, recorder: Any, masked: str, tmp_path: Path) -> None:
    summary = finetune(config(data=masked, track_attention=True, refit=True, epochs=2), recorder)
    last = rows(tmp_path / "run")[-1]
    assert last["phase"] == "refit"
    assert summary["attention_inside"] == last["attention"]["inside"][-1]


def test_model_without_cls_token(config: Make, recorder: Any, tmp_path: Path) -> None:
    spec = "test_vit2@none"
    changes = {"model": spec, "image_size": (32, 32), "regularizer": "none", "drift": False}
    with pytest.raises(UsageError, match="track_attention: this model has no CLS token"):
        finetune(config(track_attention=True, **changes), recorder)
    assert not (tmp_path / "run").exists()
