"""Tests of single pre-training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.loader import Batch
from gtacli.images.preprocessing import InputView
from gtacli.models.mae import MaeMethod, MaskedAutoencoder
from gtacli.models.patches import mask_order, take
from gtacli.pretraining.guidance import Guidance, guided_weights, normalize_maps
from gtacli.pretraining.noise import image_noise
from gtacli.pretraining.task import PretrainTask
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes, join_processes
from gtacli.training.loop import stand_in

Together = Callable[..., list[Any]]
CPU = Compute(torch.device("cpu"), torch.float32)
SIZE, N = (32, 48), 24


def make(
    method: MaeMethod = "mae", processes: Processes = ALONE, **options: Any
) -> tuple[PretrainTask, MaskedAutoencoder]:
    torch.manual_seed(0)
    encoder = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIZE,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=0,
    )
    model = MaskedAutoencoder(
        encoder, SIZE, method, decoder_dim=16, decoder_depth=2, decoder_heads=2
    )
    view = InputView(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU.device)
    return PretrainTask(model, view, CPU, seed=5, processes=processes, **options).train(), model


def data(count: int = 6) -> tuple[Batch, Tensor]:
    """Create a batch of views, and maps of their images."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values.flatten(1)
    shown = torch.cat([corners, torch.arange(count)[:, None] % 2], dim=1)
    maps = torch.randint(0, 256, (count, 7, 5), dtype=torch.uint8, generator=generator)
    return Batch(pixels, torch.zeros(count).long(), torch.arange(count) + 40, shown), maps


def part(batch: Batch, which: slice) -> Batch:
    return Batch(*(field[which] for field in batch[:4]))


def test_plain_step_is_the_mean_error() -> None:
    task, model = make()
    batch, _ = data()
    task.start_epoch(3)
    result = task(batch)
    images = (batch.images.float() / 255 - 0.5) / 0.25
    order = mask_order(image_noise(batch.indices, N, 5, 3))
    expected = model(images, order).errors
    torch.testing.assert_close(result["output"], expected)
    torch.testing.assert_close(result["loss"], expected.mean())
    assert torch.equal(result["recon"], result["loss"])
    assert "fg" not in result
    task.start_epoch(4)
    assert not torch.equal(task(batch)["output"], result["output"])


@pytest.mark.parametrize("method", ["mae", "crossmae"])
@pytest.mark.parametrize("gamma", [None, 0.7])
def test_guided_step_weights_errors_by_the_map(method: MaeMethod, gamma: float | None) -> None:
    task, _ = make(method, guidance=Guidance((1.0, 0.2), gamma))
    batch, maps = data()
    task.progress = 0.5
    result = task(batch._replace(maps=maps))
    assert result["tau"].item() == pytest.approx(0.6)
    views = normalize_maps(crop_maps(maps, batch.crops, (4, 6)).flatten(1))
    errors = result["output"]
    order = mask_order(image_noise(batch.indices, N, 5, 0))
    masked = take(views, order[:, -errors.shape[1] :])
    expected = (guided_weights(masked, 0.6, gamma) * errors).mean()
    torch.testing.assert_close(result["loss"], expected)
    torch.testing.assert_close(result["recon"], errors.mean())
    torch.testing.assert_close(result["fg"], (masked * errors).mean())
    torch.testing.assert_close(result["bg_mass"], (1 - masked).mean())


def test_the_share_of_chosen_masks_follows_the_training() -> None:
    """HPM's course: at half of the way from 0 to 0.5 the map chooses a quarter of the masks."""
    task, model = make(masking="attention", share=(0.0, 0.5))
    batch, maps = data()
    batch = batch._replace(maps=maps)
    views = normalize_maps(crop_maps(maps, batch.crops, (4, 6)).flatten(1))
    noise = image_noise(batch.indices, N, 5, 0)
    images = (batch.images.float() / 255 - 0.5) / 0.25
    for progress, chosen in ((0.0, 0), (0.5, round(0.25 * 18)), (1.0, 9)):
        task.progress = progress
        order = mask_order(noise, views, "attention", chosen)
        torch.testing.assert_close(task(batch)["output"], model(images, order).errors)


def test_shuffled_maps_change_the_loss_but_not_the_metrics() -> None:
    batch, maps = data()
    results = []
    for shuffle in (False, True):
        task, _ = make(guidance=Guidance((0.2, 0.2), shuffle=shuffle))
        results.append(task(batch._replace(maps=maps)))
    true, control = results
    assert torch.equal(true["output"], control["output"])  # the masks are the same
    assert torch.equal(true["fg"], control["fg"])
    assert not torch.isclose(true["loss"], control["loss"], rtol=1e-4)


def test_images_without_maps_have_equal_weights() -> None:
    task, _ = make(guidance=Guidance((0.2, 0.2)))
    batch, maps = data()
    result = task(batch._replace(maps=torch.zeros_like(maps)))
    torch.testing.assert_close(result["loss"], result["recon"])
    assert result["fg_mass"] == 0


def test_attention_masking() -> None:
    batch, maps = data()
    views = normalize_maps(crop_maps(maps, batch.crops, (4, 6)).flatten(1))
    masses = {}
    for masking in ("attention", "random", "inverse"):
        task, _ = make(masking=masking)
        masses[masking] = task(batch._replace(maps=maps))["fg_mass"].item()
    assert masses["attention"] > masses["random"] > masses["inverse"]
    highest = views.sort(1).values[:, N // 4 :].mean().item()
    assert masses["attention"] == pytest.approx(highest, abs=0.02)


def test_steps_reduce_the_error() -> None:
    task, model = make(guidance=Guidance())
    batch, maps = data()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for epoch in range(60):
        task.start_epoch(epoch)
        loss = task(batch._replace(maps=maps))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


@pytest.mark.parametrize("shares", [(3, 3), (5, 1), (6, 0)], ids=["even", "uneven", "stand-in"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_two_processes_take_the_same_step(
    shares: tuple[int, int], shuffle: bool, together: Together
) -> None:
    """Under DDP, weighted as in the loop."""
    batch, maps = data()
    guidance = Guidance((0.3, 0.3), shuffle=shuffle)

    def gradients(task: PretrainTask, which: slice, count: int, size: int) -> list[Any]:
        task.start_epoch(2)
        mine = part(batch, which)._replace(maps=maps[which])
        loss = task(mine if count else stand_in(mine))["loss"]
        (loss * count * size / 6).backward()
        return [p.grad.tolist() for p in task.model.parameters() if p.requires_grad]

    def work(rank: int) -> list[Any]:
        with join_processes() as processes:
            task, _ = make(processes=processes, guidance=guidance)
            task.prepare_distributed()
            which = slice(0, shares[0]) if rank == 0 else slice(shares[0], 6)
            return gradients(task, which, shares[rank], processes.size)

    whole = gradients(make(guidance=guidance)[0], slice(0, 6), 6, 1)
    for found in together(work):
        assert isinstance(found, list), found
        for mine, expected in zip(found, whole, strict=True):
            torch.testing.assert_close(
                torch.tensor(mine), torch.tensor(expected), atol=1e-6, rtol=1e-4
            )


@pytest.mark.slow
def test_compiled_task_takes_the_same_step() -> None:
    batch, maps = data()
    losses = []
    for compiled in (False, True):
        task, _ = make(guidance=Guidance())
        if compiled:
            task.compile()
        losses.append(task(batch._replace(maps=maps))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
