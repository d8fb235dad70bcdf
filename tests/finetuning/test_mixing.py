"""Tests of mixed views and labels against loops, timm's Mixup and TransMix's released code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from timm.data.mixup import Mixup

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import Batch
from gtacli.errors import UsageError
from gtacli.finetuning.mixing import ALPHA, Mix, Mixing, MixKind, attended_fraction, soft_labels
from gtacli.finetuning.run import finetune
from gtacli.models.tap import Tap, TappedViT

Make = Callable[..., FinetuneConfig]


def images(count: int, height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def tap(attention: torch.Tensor, grid: tuple[int, int], prefix: int = 1) -> Tap:
    """Create a tap with this attention (B, H, N) of the CLS token to patches, up to a factor."""
    row = torch.cat((torch.zeros(*attention.shape[:2], prefix), attention.log()), -1)
    return Tap(11, grid, prefix, 1.0, row=row.unsqueeze(2))


@pytest.mark.parametrize(
    ("box", "shares"),
    [
        ((0, 40, 10, 50), (0.5993555188179016, 0.5501993894577026)),
        ((5, 6, 0, 64), (0.9921875, 0.9921875)),  # too thin for the patches: the area alone
        ((0, 64, 0, 64), (0.0, 0.0)),
        ((17, 49, 30, 64), (0.6408151984214783, 0.7039055824279785)),
    ],
)
def test_label_weights_match_released_transmix(
    box: tuple[int, int, int, int], shares: tuple[float, float]
) -> None:
    """`Mixup_transmix.transmix_label` of Beckschen/TransMix returned these numbers."""
    attention = torch.arange(1, 33, dtype=torch.float32).view(2, 1, 16) ** 1.5
    top, bottom, left, right = box
    mix = Mix(1 - (bottom - top) * (right - left) / 64**2, box)
    own = Mixing("transmix", 1.0).own_fraction(mix, tap(attention, (4, 4)), (64, 64))
    own = torch.as_tensor(own).expand(2)
    assert own.tolist() == pytest.approx(shares, abs=2e-7)


@given(st.tuples(st.integers(1, 5), st.integers(1, 6)), st.integers(0, 10_000), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_attended_fraction_matches_plain_sum(grid: tuple[int, int], seed: int, prefix: int) -> None:
    rng = np.random.default_rng(seed)
    size = (grid[0] * 8, grid[1] * 8)
    box = (*sorted(rng.integers(0, size[0] + 1, 2)), *sorted(rng.integers(0, size[1] + 1, 2)))
    attention = torch.from_numpy(rng.uniform(0.1, 3, (2, 3, grid[0] * grid[1])))
    expected = []
    for image in attention / (prefix + attention.sum(-1, keepdim=True)):
        inside = total = 0.0
        for y in range(grid[0]):
            for x in range(grid[1]):
                mass = float(image[:, y * grid[1] + x].mean())
                total += mass
                # Nearest resizing takes the first pixel of a patch.
                if box[0] <= y * 8 < box[1] and box[2] <= x * 8 < box[3]:
                    inside += mass
        expected.append(inside / total)
    made = attended_fraction(tap(attention, grid, prefix), tuple(map(int, box)), size)  # type: ignore[arg-type]
    assert made.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("seed", range(8))
def test_even_batches_match_timm(kind: MixKind, seed: int) -> None:
    labels, batch = torch.tensor([0, 2, 1, 2, 0, 1]), images(6)
    alphas = {"mixup_alpha": 0.8, "cutmix_alpha": 0.0}
    if kind == "cutmix":
        alphas = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
    np.random.seed(seed)
    reference = Mixup(**alphas, label_smoothing=0.0, num_classes=3)
    expected, targets = reference(batch.float().clone(), labels)
    np.random.seed(seed)
    mixing = Mixing(kind, ALPHA[kind])
    mix = mixing.draw(*batch.shape[-2:])
    torch.testing.assert_close(mix.images(batch).float(), expected)
    torch.testing.assert_close(
        soft_labels(labels, mixing.own_fraction(mix, None, (32, 48)), 3), targets
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_batch_can_be_mixed(count: int) -> None:
    batch, labels = images(count), torch.arange(count)
    for mix in (Mix(0.25), Mix(0.25, (0, 32, 0, 36))):
        mixed = mix.images(batch).float()
        for i in range(count):
            own, other = batch[i].float(), batch[count - 1 - i].float()
            expected = 0.25 * own + 0.75 * other
            if mix.box is not None:
                expected = own.clone()
                expected[:, 0:32, 0:36] = other[:, 0:32, 0:36]
            torch.testing.assert_close(mixed[i], expected)
        soft = soft_labels(labels, 0.25, count)
        torch.testing.assert_close(soft.sum(-1), torch.ones(count))
        assert soft[count // 2, count // 2] == (1.0 if count % 2 else 0.25)


def test_batch_is_not_modified() -> None:
    batch = images(4)
    before = batch.clone()
    Mix(0.5).images(batch)
    Mix(0.5, (0, 16, 0, 16)).images(batch)
    assert torch.equal(batch, before)


def test_prob_is_the_fraction_of_mixed_batches() -> None:
    np.random.seed(0)
    for prob in (0.0, 0.3, 1.0):
        mixing = Mixing("cutmix", 1.0, prob)
        mixed = sum(mixing.draw(224, 224).fraction < 1 for _ in range(2000)) / 2000
        assert mixed == pytest.approx(prob, abs=0.04)


def test_transmix_runs_each_network_once_on_the_same_view(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.Tensor]] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, view: torch.Tensor) -> Any:
        seen.append((torch.is_grad_enabled(), view.detach().clone()))
        return forward(self, view)

    monkeypatch.setattr(TappedViT, "forward", spy)
    monkeypatch.setattr(Mix, "images", lambda self, batch: torch.zeros_like(batch))
    finetune(config(mix="transmix", shots=5, drift=False, epochs=1, batch_size=3), recorder)
    training = seen[:8]  # twelve images in four batches; each network once
    assert [grad for grad, _ in training] == [False, True] * 4
    for (_, source), (_, target) in zip(training[::2], training[1::2], strict=True):
        assert torch.equal(source, target)
        assert source.std() == 0  # what the mixing gave, not what was loaded


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "transmix"])
@pytest.mark.parametrize("rows", ["cls", "all"])
def test_gta_with_odd_last_batch(mix: str, rows: str, config: Make, recorder: Any) -> None:
    # 15 training images: batches of 4, 4, 4 and 3.
    summary = finetune(config(mix=mix, rows=rows, shots=6), recorder)
    assert summary["n_train"] == 15
    assert len(recorder.rows) == 3


@pytest.mark.parametrize("mix", ["mixup", "transmix"])
def test_resume_continues_the_random_draws(
    mix: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    finetune(config(mix=mix, out=tmp_path / "whole"), recorder)

    class Cut(Exception):
        pass

    def cut(row: dict[str, Any]) -> None:
        raise Cut

    recorder.at_epoch = cut
    with pytest.raises(Cut):
        finetune(config(mix=mix, out=tmp_path / "cut"), recorder)
    recorder.at_epoch = lambda row: None
    np.random.seed(123)  # the resumed process starts elsewhere
    finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    whole, resumed = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_evaluation_is_not_mixed(config: Make, recorder: Any, jobs: list[Any]) -> None:
    finetune(config(mix="mixup", epochs=1), recorder)
    task, labels = jobs[0].task, torch.tensor([0, 1, 2, 0])
    batch = Batch(images(4, 32, 32), labels, torch.arange(4), torch.zeros(4, 5))
    with torch.no_grad():
        assert torch.equal(task.eval()(batch)["ce"], task(batch)["ce"])
        assert not torch.equal(task.train()(batch)["ce"], task(batch)["ce"])


def test_transmix_needs_cls_token(config: Make, recorder: Any) -> None:
    with pytest.raises(UsageError, match=r"mix: this model has no CLS token.*cutmix"):
        finetune(
            config(
                model="vit_base_patch16_siglip_224@none", image_size=32,
                mix="transmix", regularizer="none",
            ),
            recorder,
        )  # fmt: skip


def test_single_image_cannot_be_mixed(config: Make, recorder: Any) -> None:
    with pytest.raises(
        UsageError, match="mix: with `batch_size=1` a process has only one image to mix"
    ):
        finetune(config(mix="mixup", batch_size=1), recorder)
