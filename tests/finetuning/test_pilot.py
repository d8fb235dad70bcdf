"""Tests of the pilot that compares two penalties before a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import sem
from torch.nn import functional as F

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import Interrupted
from gtacli.finetuning import pilot
from gtacli.finetuning.pilot import Comparison, compare, pilot_length, pilot_split
from gtacli.finetuning.prepare import prepare
from gtacli.runtime.run_folder import RunFolder

Make = Callable[..., FinetuneConfig]


def both(config: FinetuneConfig, lam: float = 0.1) -> tuple[FinetuneConfig, FinetuneConfig]:
    return config.model_copy(update={"lam": lam}), config.model_copy(update={"lam": 0.0})


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=30))
def test_difference_and_its_standard_error(losses: list[tuple[float, float]]) -> None:
    first, second = (torch.tensor(side, dtype=torch.float64) for side in zip(*losses, strict=True))
    found = Comparison.of_losses(first, second)
    assert found.difference == pytest.approx(float((first - second).mean()), abs=1e-9)
    assert found.error == pytest.approx(float(sem((first - second).numpy())), abs=1e-9)
    assert found.images == len(losses)


@given(st.integers(1, 10**5), st.integers(1, 512), st.integers(1, 300))
def test_pilot_is_short_and_has_enough_steps(images: int, batch_size: int, epochs: int) -> None:
    length, batch = pilot_length(images, batch_size, epochs)
    assert 1 <= length <= max(1, epochs // 10)
    assert 1 <= batch <= batch_size
    steps = length * -(-images // batch)
    assert steps >= pilot.STEPS or batch == min(batch_size, pilot.SMALLEST_BATCH)
    if batch < batch_size:
        assert steps <= 2 * pilot.STEPS + length


def test_held_out_images_are_not_trained_on(config: Make) -> None:
    job = prepare(config(hold_out="none"))
    split = pilot_split(job)
    assert set(split.train) | set(split.val) == set(job.split.train)
    assert not set(split.train) & set(split.val)
    assert set(Counter(r.label for r in split.val).values()) == {1}


def test_validation_images_judge_where_there_are_some(config: Make) -> None:
    job = prepare(config(hold_out=20))
    split = pilot_split(job)
    assert (split.train, split.val) == (job.split.train, job.split.val)


def test_many_images_are_reduced(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "STEPS", 2)
    monkeypatch.setattr(pilot, "JUDGES", 2)
    split = pilot_split(prepare(config(hold_out="none", batch_size=2)))
    assert (len(split.train), len(split.val)) == (4, 2)


def test_one_image_a_class_cannot_be_judged(config: Make, tmp_path: Path) -> None:
    job = prepare(config(shots=1))
    assert compare(job, *both(job.config), RunFolder(tmp_path / "run")) is None


def test_equal_penalties_make_no_difference(config: Make, tmp_path: Path) -> None:
    job = prepare(config())
    same = job.config.model_copy(update={"lam": 0.0})
    found = compare(job, same, same, RunFolder(tmp_path / "run"))
    assert found is not None
    assert (found.difference, found.error) == (0.0, 0.0)
    assert not (tmp_path / "run").exists()


def test_losses_are_those_of_the_trained_weights(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the plain formula on each held-out image alone."""
    kept: list[Any] = []
    original = pilot._judge

    def spy(job: Any, judges: Any, max_batches: Any) -> Any:
        kept.append((job, judges, original(job, judges, max_batches)))
        return kept[-1][2]

    monkeypatch.setattr(pilot, "_judge", spy)
    job = prepare(config())
    found = compare(job, *both(job.config, 30.0), RunFolder(tmp_path / "run"))
    assert found is not None
    assert found.difference != 0
    for trained, judges, losses in kept:
        (batch,) = [*pilot.evaluation_batches(trained, judges)]
        view = trained.target.view(torch.device("cpu"))
        with torch.no_grad():
            logits = trained.target.model(view(batch.images))
        expected = F.cross_entropy(logits, batch.labels, reduction="none")
        assert torch.allclose(losses, expected, atol=1e-5)
    start = prepare(config()).target.model.state_dict()
    trained = kept[0][0].target.model.state_dict()
    assert not torch.equal(start["blocks.0.attn.qkv.weight"], trained["blocks.0.attn.qkv.weight"])
    # The run's own network is not touched.
    own = job.target.model.state_dict()
    assert all(torch.equal(start[name], own[name]) for name in start)


def test_dry_pilot_takes_one_step(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = pilot.train

    def spy(job: Any, phase: Any, *others: Any) -> Any:
        steps.append(phase.max_batches * phase.stop_after)
        return original(job, phase, *others)

    monkeypatch.setattr(pilot, "train", spy)
    job = prepare(config())
    compare(job, *both(job.config), RunFolder(tmp_path / "run", dry=True), dry_run=True)
    assert steps == [1, 1]


def test_interruption_says_that_nothing_has_begun(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(config())

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise Interrupted("stopped in epoch 1; continue with `resume` elsewhere")

    monkeypatch.setattr(pilot, "train", stop)
    with pytest.raises(Interrupted, match="start the run again"):
        compare(job, *both(job.config), RunFolder(tmp_path / "run"))
