"""Tests of `source_views`: training with cached source attention."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.finetuning.run as run
import gtacli.finetuning.source_cache as module
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.models.tap import TappedViT

Make = Callable[..., FinetuneConfig]


def largest_difference(a: Path, b: Path) -> float:
    ours, theirs = (load_file(p / "model.safetensors") for p in (a, b))
    return max((ours[k] - theirs[k]).abs().max().item() for k in ours)


def source_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the batch sizes of all forward passes of frozen networks."""
    seen: list[int] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, view: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            seen.append(len(view))
        return forward(self, view)

    monkeypatch.setattr(TappedViT, "forward", spy)
    return seen


@pytest.mark.parametrize("views", [3, 7])
def test_one_view_per_epoch_matches_run_without_cache(
    views: int, config: Make, recorder: Any, tmp_path: Path
) -> None:
    """With at least as many views as epochs, the views are those of a run without cache."""
    finetune(config(out=tmp_path / "asked"), recorder)
    finetune(config(out=tmp_path / "kept", source_views=views), recorder)
    assert largest_difference(tmp_path / "asked", tmp_path / "kept") == 0


def test_source_runs_once_per_view(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = source_passes(monkeypatch)
    finetune(config(epochs=5, source_views=2, drift=False), recorder)
    training = seen[:8]  # two views of 15 images in batches of 4
    assert training == [4, 4, 4, 3] * 2
    # The rest is the target itself: five validations and one test.
    assert len(seen) - 8 == 5 * 1 + 2
    assert recorder.rows[4]["reg.gta"] > 0


def test_views_alternate(tiny_data: Path) -> None:
    from gtacli.data import load_dataset

    records = load_dataset(str(tiny_data))["train"]
    store, transform = ImageStore(records, 36), TrainTransform((32, 32))

    def views(epoch: int) -> dict[int, torch.Tensor]:
        batches = make_loader(store, transform, 4, train=True, epoch=epoch, views=2)
        return {
            int(i): image for b in batches for i, image in zip(b.indices, b.images, strict=True)
        }

    first, second, third = views(0), views(1), views(2)
    assert all(torch.equal(first[i], third[i]) for i in first)
    assert any(not torch.equal(first[i], second[i]) for i in first)


@pytest.mark.parametrize("epoch", [0, 1])
def test_resume_is_bit_equal(epoch: int, config: Make, recorder: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Killed

    finetune(config(out=tmp_path / "whole", source_views=2), recorder)
    recorder.at_epoch = kill
    with pytest.raises(Killed):
        finetune(config(out=tmp_path / "cut", source_views=2), recorder)
    recorder.at_epoch = lambda row: None
    finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert largest_difference(tmp_path / "whole", tmp_path / "cut") == 0


def test_no_source_no_cache(config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = source_passes(monkeypatch)
    finetune(config(regularizer="none", source_views=2, drift=False, epochs=1), recorder)
    assert len(seen) == 1 + 2


def test_corrupt_image_is_skipped(
    config: Make, recorder: Any, tiny_data: Path, tmp_path: Path
) -> None:
    broken = tiny_data / "train" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    summary = finetune(config(source_views=2, seed=3), recorder)
    assert summary["skipped"] == 1
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[2])["reg.gta"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guide": "msa"}, "use `guide=logits` and `rows=cls`"),
        ({"rows": "all"}, "use `guide=logits` and `rows=cls`"),
    ],
)
def test_only_cls_rows_are_cached(
    changes: dict[str, Any], message: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"source_views: .*{message}"):
        finetune(config(source_views=2, **changes), recorder)
    assert not (tmp_path / "run").exists()


def test_mixing_excludes_source_views(config: Make) -> None:
    with pytest.raises(ValueError, match="`source_views` and `mix` exclude each other"):
        config(source_views=2, mix="cutmix")


@pytest.mark.parametrize("changes", [{}, {"refit": True}, {"lam": "auto", "epochs": 5}])
def test_too_many_views_are_rejected_before_writing(
    changes: dict[str, Any],
    config: Make,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three blocks, three heads, 17 tokens, 4 bytes: 612 bytes per view and image."""
    images = 18 if changes.get("refit") else 15
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 612 * 2 * images - 1)
    with pytest.raises(UsageError, match=f"source_views: 2 views of {images} images need"):
        finetune(config(source_views=2, **changes), recorder)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 612 * 2 * images)
    finetune(config(source_views=2, **changes), recorder)


def test_search_fills_the_cache_once(
    config: Make, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    finetune(config(source_views=2, lam="auto", epochs=5), recorder)
    assert sum("attention on 2 views of 15" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize("more", [{"refit": True}, {"lam": "auto", "epochs": 5}])
def test_what_is_cached_is_no_memory_that_the_same_cache_lacks(
    more: dict[str, Any], config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the caches fit, later parts of the run do not ask for the memory that they fill."""
    filled: list[weakref.ref[module.SourceCache]] = []
    fill = module.SourceCache.fill

    def spy(self: module.SourceCache, *args: Any, **given: Any) -> None:
        fill(self, *args, **given)
        filled.append(weakref.ref(self))

    def used() -> int:
        gc.collect()
        live = {id(one): one for each in filled if (one := each()) is not None}
        return sum(4 * math.prod(one.shape) for one in live.values())

    largest = 2 * 18 * 4 * 3 * 3 * (16 + 1)  # views, images, bytes, blocks, heads, tokens
    monkeypatch.setattr(module.SourceCache, "fill", spy)
    monkeypatch.setattr(module, "available_memory", lambda: 5 * largest // 2 - used())
    finetune(config(source_views=2, **more), recorder)
    assert filled


def test_the_first_job_is_gone_when_the_refit_begins(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Any] = []
    phase = run.run_phase

    def spy(job: Any, *args: Any, **more: Any) -> Any:
        gc.collect()
        assert all(one() is None for one in jobs)
        jobs.append(weakref.ref(job.optimizer))
        return phase(job, *args, **more)

    monkeypatch.setattr(run, "run_phase", spy)
    finetune(config(refit=True, epochs=1), recorder)
    assert len(jobs) == 2
